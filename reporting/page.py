"""report.py's page: what the runs left is read into plain data, page.html makes the HTML of it.

No markup here: the template holds all of it and escapes every value. What is missing or damaged
gives None or an empty list, and the template says how to make it.
"""

import base64
import contextlib
import io
import json
import os
import re
from pathlib import Path

import jinja2
from PIL import Image

from engine.files import is_number, parse_json
from engine.weights import CheckpointError, digest, load_model
from interpretability.layer_figures import TABLE as LAYER_TABLE
from reporting.sections import PICTURES, SAMPLES
from training import panels

MAX_FRAMES = 24  # epochs on the slider of the sample grids
QUALITY = 82  # of WebP
MAX_PIXELS = 40_000_000  # of a picture
MAX_WEBP_HEIGHT = 16_383
MAX_POINTS = 2000  # of a curve
PRIVATE = ("data_dir", "output_dir", "judge")  # settings that name folders of this machine
SCORES = {  # of evaluate_gan.py: {key: heading of its column}
    "frechet_distance": "Frechet",
    "kernel_distance": "kernel",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_consistency": "class consistency %",
}

INCEPTION = {  # the same, of the Inception network
    "images": "images",
    "reference_images": "reference",
    "fid": "FID",
    "kid": "1000 x KID",
    "kid_std": "±",
    "inception_score": "IS",
}


def contents_of(folders):
    """What the page shows, as plain data: the variables of its template.

    folders: {"baseline", "gan", "visualization", "evaluation": Path}.
    """
    folders = folders | {flag: Path(os.devnull) for flag in of_other_weights(folders)}
    summary = read_json(folders["visualization"] / "summary.json")
    evaluation = read_json(folders["evaluation"] / "evaluation.json")
    baseline = read_run(folders["baseline"], "The classifier", "train_discriminator.py")
    gan = read_run(folders["gan"], "The GAN", "train_gan.py")
    charts = []
    for run, drawn_together in ((baseline, panels.CLASSIFIER.curves), (gan, panels.GAN.curves)):
        # A chart's place in the list is how the page's script finds its lines.
        run["charts"] = list(enumerate(chart_data(run["records"], drawn_together), len(charts)))
        charts += [chart for _, chart in run["charts"]]
    return {
        "cards": cards(baseline, gan, summary, evaluation),
        "runs": [baseline, gan],
        "charts": charts,
        "sliders": {
            "epoch": sample_frames(folders["gan"]),
            "epsilon": epsilon_frames(folders["visualization"]),
        },
        "scores": score_table(evaluation),
        "inception": inception_table(evaluation),
        "samples": pictures(folders["evaluation"], SAMPLES),
        "pictures": pictures(folders["visualization"], PICTURES),
        "layers": layer_tables(summary),
    }


def render(contents):
    """The page as a string."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(contents)


# ------------------------------------------------------------------------------ what the runs left


def read_json(path):
    """The dict in a JSON file; an empty one where there is none or it is damaged."""
    try:
        content = parse_json(path.read_bytes())
    except OSError:
        return {}
    return content if isinstance(content, dict) else {}


def read_records(folder):
    """The lines of metrics.jsonl that are whole."""
    try:
        records = map(parse_json, (folder / "metrics.jsonl").read_bytes().splitlines())
    except OSError:
        return []
    return [r for r in records if isinstance(r, dict) and is_number(r.get("epochs_done"))]


def read_run(folder, heading, script):
    """A training's summary, records and settings, beside its heading and its script."""
    return {
        "heading": heading,
        "script": script,
        "summary": read_json(folder / "summary.json"),
        "records": read_records(folder),
        "config": public_config(read_json(folder / "config.json")),
    }


def public_config(config):
    """A run's config.json as text, without this machine's folders; None where it has no settings.

    The page may be passed on: nobody else has these folders.
    """
    settings = config.get("settings")
    if not isinstance(settings, dict):
        return None
    settings = {name: value for name, value in settings.items() if name not in PRIVATE}
    config = {name: value for name, value in config.items() if name != "resumed"}
    try:
        return json.dumps(config | {"settings": settings}, indent=1)
    except RecursionError:
        return None


def webp(path, width=1400, lossless=False):
    """A picture as a data URI, WebP, at most `width` pixels wide.

    None where it cannot be read or is too large, which is told.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"larger than {MAX_PIXELS:,} pixels")
            image = image.convert("RGB")
    except FileNotFoundError:
        return None
    except Exception as error:  # decoders raise almost anything on a broken picture
        print(f"left out: {path} ({error})")
        return None
    image.thumbnail((width, MAX_WEBP_HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def of_other_weights(folders):
    """Which of visualization and evaluation are not of the runs' weights; a line names each."""
    summary = read_json(folders["visualization"] / "summary.json")
    evaluation = read_json(folders["evaluation"] / "evaluation.json")
    stale = []
    for flag, run, kind, made_of in (
        ("visualization", "baseline", "discriminator", _dict_in(summary, "without G")),
        ("visualization", "gan", "discriminator", _dict_in(summary, "with G")),
        ("evaluation", "gan", "generator", evaluation),
    ):
        digests = set()
        for path in folders[run].glob(f"{kind}*.safetensors") if "sha256" in made_of else ():
            with contextlib.suppress(CheckpointError):
                digests.add(digest(load_model(path, kind=kind)[0]))
        if digests and made_of["sha256"] not in digests and flag not in stale:
            print(f"left out: {folders[flag]} (made of another {kind} than that in {folders[run]})")
            stale.append(flag)
    return stale


# ------------------------------------------------------------------------------ parts of the page


def cards(baseline, gan, summary, evaluation):
    """The metrics that stand on top: [(name, value as text)], without those that are missing."""
    values = {
        "test accuracy, without G": percent(baseline["summary"], "test_accuracy"),
        "test accuracy, with G": percent(gan["summary"], "test_accuracy"),
    }
    for network in ("without G", "with G"):
        perturbation = _dict_in(_dict_in(summary, network), "perturbation")
        if perturbation:
            name = f"accuracy after one step of {perturbation.get('epsilon')}, {network}"
            values[name] = percent(perturbation, "accuracy_after")
    scores = _dict_in(_dict_in(evaluation, "scores"), "samples")
    name = _told_truncation("class consistency of samples", evaluation)
    values[name] = percent(scores, "class_consistency")
    return [(name, value) for name, value in values.items() if value is not None]


def _told_truncation(name, evaluation):
    """A name, with what the samples' latents were cut off at where it is of samples."""
    limit = evaluation.get("truncation")
    cut = is_number(limit) and "samples" in name
    return f"{name}, truncation {limit:g}" if cut else name


def _dict_in(content, key):
    """The dict at a key; an empty one where there is none or it is something else."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def percent(metrics, key):
    value = metrics.get(key)
    return f"{value:.2f} %" if is_number(value) else None


def chart_data(records, drawn_together):
    """What the page's script draws: one chart for each panel that has a metric in the log."""
    charts = []
    for title, fields in drawn_together.items():
        present = {f: n for f, n in fields.items() if any(is_number(r.get(f)) for r in records)}
        rows = [r for r in records if any(is_number(r.get(f)) for f in present)]
        rows = [*rows[: -1 : -(-len(rows) // MAX_POINTS) or 1], *rows[-1:]]  # evenly, with the last
        if present:
            lines = [
                {"name": name, "ys": [r[f] if is_number(r.get(f)) else None for r in rows]}
                for f, name in present.items()
            ]
            xs = [r["epochs_done"] for r in rows]
            charts.append({"title": title, "x": "epoch", "xs": xs, "lines": lines})
    return charts


def pictures(folder, sections):
    """Each section as a dict with its images, [{"source", "alt"}]: those that can be read."""
    filled = []
    for section in sections:
        images = [
            {"source": source, "alt": alt_of(section.heading, file)}
            for file in files_of(folder, section)
            if (source := webp(folder / file)) is not None
        ]
        filled.append(section._asdict() | {"images": images})
    return filled


def files_of(folder, section):
    """Names of a section's pictures that are there, in its order."""
    found = [path.name for pattern in section.files for path in sorted(folder.glob(pattern))]
    return list(dict.fromkeys(found))


def alt_of(heading, file):
    """A picture in parts: its heading, the network and the layer out of the file's name."""
    parts = [heading]
    if match := re.search(r"(with|without)_G", file):
        parts.append(f"network trained {match[1]} a generator")
    elif match := re.fullmatch(r"max_class_(.*)\.png", file):
        parts.append(f"control {match[1]}")
    if match := re.search(r"layer(\d)", file):
        parts.append(f"layer {match[1]}")
    return ", ".join(parts)


def sample_frames(folder):
    """The sample grids of the training: at most MAX_FRAMES, evenly chosen, with the last.

    Frames of a slider are [{"label", "images": [{"source", "alt"}]}].
    """
    grids = sorted((folder / "samples").glob("[0-9]*.png"))
    count = min(MAX_FRAMES, len(grids))
    chosen = sorted({round(i * (len(grids) - 1) / max(1, count - 1)) for i in range(count)})
    frames = []
    for grid in (grids[index] for index in chosen):
        source = webp(grid, width=1050)
        if source is not None:
            label = f"epoch {int(re.sub('[^0-9]', '', grid.stem) or 0)}"
            alt = f"Samples of the generator after {label}, one class in each column"
            frames.append({"label": label, "images": [{"source": source, "alt": alt}]})
    return frames


def epsilon_frames(folder):
    """The images perturbed by growing epsilons, for the networks that have them."""
    paths = {}  # {epsilon: {network: path}}
    for path in folder.glob("perturbed_*_epsilon*.png"):
        if match := re.fullmatch(
            r"perturbed_(with|without)_G_epsilon(\d+(?:\.\d+)?)\.png", path.name
        ):
            paths.setdefault(float(match[2]), {})[match[1]] = path
    networks = [
        network for network in ("without", "with") if all(network in p for p in paths.values())
    ]
    frames = []
    for epsilon in sorted(paths) if networks else ():
        label = f"{epsilon:g} of 255 levels"
        images = [
            {
                "source": webp(paths[epsilon][network], lossless=True),
                "alt": f"Test images moved by up to {label}, trained {network} a generator",
            }
            for network in networks
        ]
        if all(image["source"] for image in images):
            frames.append({"label": label, "images": images})
    return frames


def layer_tables(summary):
    """The measures of each layer, [(network, table)].

    A table is {"label", "columns": [heading], "rows": [(name, cells)]}; the first of the headings
    is that of the rows' names.
    """
    tables = []
    for network in summary:
        layers = _dict_in(_dict_in(summary, network), "layers")
        columns = [(*about, layers.get(measure)) for measure, about in LAYER_TABLE.items()]
        alike = _dict_in(layers, "cka")
        columns += [(f"CKA, {other}", ".2f", values) for other, values in alike.items()]
        columns = [column for column in columns if isinstance(column[2], list)]
        if not columns:
            continue
        headings, forms, values_of = zip(*columns, strict=True)
        rows = [
            (layer, [_cell(value, form) for value, form in zip(row, forms, strict=True)])
            for layer, row in enumerate(zip(*values_of, strict=False), start=1)
        ]
        label = f"Measures of each layer, {network}"
        tables.append((network, {"label": label, "columns": ["layer", *headings], "rows": rows}))
    return tables


def _cell(value, form):
    whole = isinstance(value, int) or not form.endswith("d")
    return format(value, form if whole else "g") if is_number(value) else value


def score_table(evaluation):
    """The rows of evaluate_gan's table; None where it has none."""
    scores = evaluation.get("scores")
    if not isinstance(scores, dict):
        return None
    rows = [
        (_told_truncation(name, evaluation), [_score(row.get(key)) for key in SCORES])
        for name, row in scores.items()
        if isinstance(row, dict)
    ]
    columns = ["images", *SCORES.values()]
    return {"label": "Scores of the samples", "columns": columns, "rows": rows}


def inception_table(evaluation):
    """FID and KID, one row for each comparison; None where there are none."""
    scores = _dict_in(_dict_in(evaluation, "inception"), "scores")
    rows = []
    for name, row in scores.items():
        if isinstance(row, dict):
            scaled = {key: 1000 * row[key] for key in ("kid", "kid_std") if is_number(row.get(key))}
            cells = [_score((row | scaled).get(key)) for key in INCEPTION]
            rows.append((_told_truncation(name, evaluation), cells))
    columns = ["what against what", *INCEPTION.values()]
    label = "FID and KID, by the Inception network"
    return {"label": label, "columns": columns, "rows": rows} if rows else None


def _score(value):
    if isinstance(value, int) and is_number(value):
        return f"{value:,}"
    # + 0.0 turns the -0.0 of a rounded small negative into 0.0.
    return f"{round(value, 3) + 0.0:.4g}" if is_number(value) else ""
