"""The HTML of what the page shows: pictures, probabilities, a line of words."""

import base64
import io
from pathlib import Path

import jinja2
from PIL import Image

# What the page calls the networks; also the class by which page.css gives each its colour.
WORDS = {"without G": "classifier", "with G": "critic"}
SCORING = {"with G"}  # whose critic head was trained
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
)
_macros = _templates.get_template("pieces.html").module


def png(image):
    """uint8 (3, h, w) -> the bytes of a PNG, pixel for pixel."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def source(image):
    """The picture itself as the address of an <img>."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def figures(items, small=False):
    """Pictures in a row, each saved by a click.

    items: (uint8 (3, h, w), caption, file name), and perhaps what is framed, (top, left, bottom,
    right) in pixels.
    """
    shown = []
    for image, caption, file, *framed in items:
        item = {"src": source(image), "caption": caption, "file": file}
        if framed and framed[0] is not None:
            _, height, width = image.shape
            top, left, bottom, right = framed[0]
            sides = zip(
                ("top", "left", "bottom", "right"),
                (top / height, left / width, 1 - bottom / height, 1 - right / width),
                strict=True,
            )
            item["frame"] = ";".join(f"{side}:{100 * share:.2f}%" for side, share in sides)
        shown.append(item)
    return _macros.figures(shown, small)


def heading(network, words):
    """A line in a network's colour."""
    return _macros.heading(WORDS[network], words)


def choices(items):
    """Pictures to choose from by a click. items: (uint8 (3, h, w), value, name, lines below it).

    value: the text that a click on it is told by; lines: (class of page.css, text).
    """
    return _macros.choices(
        [
            {
                "src": source(image),
                "value": value,
                "label": label,
                "lines": [{"word": word, "text": text} for word, text in lines],
            }
            for image, value, label, lines in items
        ]
    )


# Runs in the browser: a click on one of `choices` is the component's event `select`.
CHOOSE = """element.addEventListener("click", event => {
  const button = event.target.closest("button[data-value]");
  if (button) trigger("select", {value: button.dataset.value});
});"""


def bars(network, words, class_names, after, before=None, marked=None):
    """A network's word, what is said of it, and a bar for each class; two where there is a before.

    network: name; after, before: (k,) in percent; marked: index of the row that stands out.
    """
    rows = [
        {"name": name, "after": f"{share:.1f}", "marked": index == marked}
        for index, (name, share) in enumerate(zip(class_names, after, strict=True))
    ]
    for row, share in zip(rows, [] if before is None else before, strict=False):
        row["before"] = f"{share:.1f}"
    return _macros.bars(WORDS[network], words, rows, before is not None)


def side_by_side(parts):
    return _macros.side_by_side(parts)


def verdicts(said, class_names, before=None):
    """What each network says of an image, beside what it said before.

    said, before: {name of the network: (critic score, probabilities (k,))}.
    """
    parts = []
    for name, (score, shares) in said.items():
        named, scores, old = verdict(shares, class_names), f"{score:.1f}", None
        if before is not None:
            old_score, old = before[name]
            named = f"{verdict(old, class_names)} → {named}"
            scores, old = f"{old_score:.1f} → {scores}", (100 * old).tolist()
        words = f"{named}; score {scores}" if name in SCORING else named
        parts.append(bars(name, words, class_names, (100 * shares).tolist(), old, shares.argmax()))
    return side_by_side(parts)


def verdict(shares, class_names):
    """The class named and how surely: `cat 97 %`."""
    return f"{class_names[shares.argmax()]} {100 * shares.max():.0f} %"


def note(text):
    return _macros.note(text)
