"""The parts of report.py's page: what is read from a run's folder, and the HTML made of it.

Whatever comes out of a file is escaped; what is missing or damaged gives an empty part.
"""

import base64
import html
import io
import json
import re

from PIL import Image

from interpretability.layer_figures import TABLE as LAYER_TABLE

MAX_FRAMES = 24  # epochs on the slider of the sample grids
QUALITY = 82  # of WebP

# ------------------------------------------------------------------------------ what the runs left


def read_json(path):
    """The dict in a JSON file; an empty one where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_records(folder):
    """The lines of metrics.jsonl that are whole."""
    records = []
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if isinstance(record, dict) and _number(record.get("epochs_done")):
            records.append(record)
    return records


def webp(path, width=1400, lossless=False):
    """A picture as a data URI, WebP, at most `width` pixels wide; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except (OSError, ValueError):
        return None
    if image.width > width:
        image = image.resize(
            (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


# ------------------------------------------------------------------------------ parts of the page


def text(value):
    return html.escape(str(value), quote=True)


def missing(what, command):
    return (
        f'<p class="missing">{text(what)} left out: not made yet. <code>{text(command)}</code></p>'
    )


def cards(figures):
    """Tiles of {words: value}; values that are None are left out."""
    tiles = [
        f'<div class="card">{text(words)}<b>{text(value)}</b></div>'
        for words, value in figures.items()
        if value is not None
    ]
    return f'<div class="cards">{"".join(tiles)}</div>' if tiles else ""


def percent(figures, key):
    value = figures.get(key)
    return f"{value:.2f} %" if isinstance(value, int | float) else None


def chart_data(records, panels):
    """What the page's script draws: one chart for each panel that has a figure in the log."""
    charts = []
    for title, fields in panels.items():
        present = {f: n for f, n in fields.items() if any(_number(r.get(f)) for r in records)}
        rows = [r for r in records if any(_number(r.get(f)) for f in present)]
        if present:
            lines = [
                {"name": name, "ys": [r[f] if _number(r.get(f)) else None for r in rows]}
                for f, name in present.items()
            ]
            xs = [r["epochs_done"] for r in rows]
            charts.append({"title": title, "x": "epoch", "xs": xs, "lines": lines})
    return charts


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def picture(path, alt):
    source = webp(path)
    if source is None:
        return ""
    return (
        f'<figure><div class="wide" role="group" tabindex="0" aria-label="Picture, scrolls">'
        f'<img src="{source}" alt="{text(alt)}"></div></figure>'
    )


def pictures(folder, sections):
    """The pictures of each section with a line on how to read them, or how to make them."""
    parts = []
    for heading, (files, how, command) in sections.items():
        found = [picture(folder / file, alt_of(heading, file)) for file in files]
        found = [part for part in found if part]
        parts.append(f"<h3>{text(heading)}</h3>")
        parts += [f"<p>{text(how)}</p>", *found] if found else [missing(heading, command)]
    return "\n".join(parts)


def alt_of(heading, file):
    """A picture in words: its heading, the network and the layer out of the file's name."""
    words = [heading]
    if match := re.search(r"(with|without)_G", file):
        words.append(f"network trained {match[1]} a generator")
    if match := re.search(r"layer(\d)", file):
        words.append(f"layer {match[1]}")
    return ", ".join(words)


def film(name, label, frames):
    """A slider over frames, [{"label", "images", "alts"}], and the images that it moves."""
    images = "".join(
        f'<figure><div class="wide" role="group" tabindex="0" aria-label="Picture, scrolls">'
        f'<img id="{name}-{i}" src="{source}" alt="{text(alt)}"></div></figure>'
        for i, (source, alt) in enumerate(
            zip(frames[-1]["images"], frames[-1]["alts"], strict=True)
        )
    )
    last = len(frames) - 1
    return (
        f'<div class="slider"><label for="{name}">{text(label)}</label>'
        f'<input type="range" id="{name}" min="0" max="{last}" value="{last}" step="1">'
        f'<output id="{name}-now" for="{name}">{text(frames[-1]["label"])}</output></div>{images}'
    )


def sample_frames(folder):
    """The sample grids of the training: at most MAX_FRAMES, evenly chosen, with the last."""
    grids = sorted((folder / "samples").glob("[0-9]*.png"))
    count = min(MAX_FRAMES, len(grids))
    chosen = sorted({round(i * (len(grids) - 1) / max(1, count - 1)) for i in range(count)})
    frames = []
    for grid in (grids[index] for index in chosen):
        source = webp(grid, width=1050)
        if source is not None:
            label = f"epoch {int(re.sub('[^0-9]', '', grid.stem) or 0)}"
            alt = f"Samples of the generator after {label}, one class in each column"
            frames.append({"label": label, "images": [source], "alts": [alt]})
    return frames


def epsilon_frames(folder):
    """The images perturbed by growing epsilons, for the networks that have them."""
    found = {}
    for path in folder.glob("perturbed_*_epsilon*.png"):
        if match := re.fullmatch(r"perturbed_(with|without)_G_epsilon([\d.]+)\.png", path.name):
            found.setdefault(float(match[2]), {})[match[1]] = path
    names = [which for which in ("without", "with") if all(which in f for f in found.values())]
    frames = []
    for epsilon in sorted(found) if names else ():
        images = [webp(found[epsilon][which], lossless=True) for which in names]
        label = f"{epsilon:g} of 255 levels"
        alts = [
            f"Test images moved by up to {label}, trained {which} a generator" for which in names
        ]
        if all(images):
            frames.append({"label": label, "images": images, "alts": alts})
    return frames


def table(heading, columns, rows, label):
    """A table that scrolls by itself where it is too wide. rows: [(name, cells already text)]."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in (heading, *columns))
    body = "".join(
        f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{text(c)}</td>" for c in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def layer_tables(summary):
    """The measures of section_layers, a table for each network."""
    parts = []
    for name, figures in summary.items():
        layers = figures.get("layers") if isinstance(figures, dict) else None
        if not isinstance(layers, dict):
            continue
        columns = {k: about for k, about in LAYER_TABLE.items() if isinstance(layers.get(k), list)}
        forms = [form for _, form in columns.values()]
        rows = [
            (number, [_cell(value, form) for value, form in zip(row, forms, strict=True)])
            for number, row in enumerate(zip(*(layers[k] for k in columns), strict=False), start=1)
        ]
        headings = [heading for heading, _ in columns.values()]
        parts.append(f"<h4>Trained {text(name)}</h4>")
        parts.append(table("layer", headings, rows, f"Measures of each layer, trained {name}"))
    return "".join(parts)


def _cell(value, form):
    whole = isinstance(value, int) or not form.endswith("d")
    return format(value, form if whole else "g") if _number(value) else value


SCORES = {
    "frechet_distance": "Frechet",
    "kernel_distance": "kernel",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_consistency": "class consistency %",
}


def score_table(evaluation):
    """The rows of evaluate_gan's table."""
    scores = evaluation.get("scores")
    if not isinstance(scores, dict):
        return ""
    rows = [
        (
            name,
            [f"{round(row[key], 3) + 0.0:.4g}" if _number(row.get(key)) else "" for key in SCORES],
        )
        for name, row in scores.items()
        if isinstance(row, dict)
    ]
    return table("images", SCORES.values(), rows, "Scores of the samples")
