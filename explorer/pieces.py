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


def figures(items):
    """Pictures in a row, each saved by a click. items: (uint8 (3, h, w), caption, file name)."""
    keys = ("src", "caption", "file")
    return _macros.figures(
        [dict(zip(keys, (source(image), *words), strict=True)) for image, *words in items]
    )


def choices(items):
    """Pictures to choose from by a click. items: (uint8 (3, h, w), name, lines below it).

    lines: (class of page.css, text).
    """
    return _macros.choices(
        [
            {
                "src": source(image),
                "label": label,
                "lines": [{"word": word, "text": text} for word, text in lines],
            }
            for image, label, lines in items
        ]
    )


# Runs in the browser: a click on the n-th of `choices` is the component's event `select`.
CHOOSE = """element.addEventListener("click", event => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("select", {index: Number(button.dataset.index)});
});"""


def verdicts(said, class_names, before=None):
    """What each network says of an image, a bar for each class; beside what it said before.

    said, before: {name of the network: (critic score, probabilities (k,))}.
    """
    networks = []
    for name, (score, shares) in said.items():
        named, scores = verdict(shares, class_names), f"{score:.1f}"
        rows = [
            {"name": class_name, "after": f"{100 * share:.1f}"}
            for class_name, share in zip(class_names, shares.tolist(), strict=True)
        ]
        rows[shares.argmax()]["named"] = True
        if before is not None:
            old_score, old_shares = before[name]
            named = f"{verdict(old_shares, class_names)} → {named}"
            scores = f"{old_score:.1f} → {scores}"
            for row, share in zip(rows, old_shares.tolist(), strict=True):
                row["before"] = f"{100 * share:.1f}"
        words = f"{named}; score {scores}" if name in SCORING else named
        networks.append(
            {"word": WORDS[name], "said": words, "two": before is not None, "rows": rows}
        )
    return _macros.verdicts(networks)


def verdict(shares, class_names):
    """The class named and how surely: `cat 97 %`."""
    return f"{class_names[shares.argmax()]} {100 * shares.max():.0f} %"


def note(text):
    return _macros.note(text)
