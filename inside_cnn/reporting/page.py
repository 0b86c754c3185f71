"""The page of report.py: reads results into plain data for the template page.html.

The template escapes every value. A missing part is None or an empty list.
"""

import base64
import functools
import io
import os
import re
from pathlib import Path

import jinja2
from PIL import Image

from inside_cnn.core.files import is_number, read_json
from inside_cnn.engine.plots import evenly_chosen
from inside_cnn.engine.weights import BEFORE_ROUNDING, digest, load_model
from inside_cnn.reporting.tables import short, title_of

ADVERSARIAL = "perturbed_with*_G_epsilon*.png"  # not of control networks
MAX_FRAMES = 24  # epochs of the slider


def contents_of(folders):
    """The variables of the template.

    folders: {"baseline", "gan", "visualization", "evaluation": Path}.
    """
    folders = folders | dict.fromkeys(results_of_other_weights(folders), Path(os.devnull))
    evaluation = dict_in(folders["evaluation"] / "evaluation.json")
    limit = evaluation.get("truncation")
    truncation = f", truncation {limit:g}" if limit else ""
    return {
        "cards": cards(folders, evaluation, truncation),
        "truncation": truncation,
        "epochs": frames(folders["gan"] / "samples", "[0-9]*.png", "epoch {:g}", width=1050),
        "epsilons": frames(folders["visualization"], ADVERSARIAL, "{:g}/255", lossless=True),
        "scores": table(evaluation.get("scores", {})),
        "inception": table(evaluation.get("inception", {}).get("scores", {})),
        "pictures": {name: functools.partial(pictures, path) for name, path in folders.items()},
    }


def render(contents):
    """The page as a string."""
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = jinja2.Template(text, autoescape=True, undefined=jinja2.StrictUndefined)
    return template.render(contents)


# ------------------------------------------------------------------------------ reading


def dict_in(path):
    """The dict in a JSON file; empty if there is no file."""
    return read_json(path, optional=True) or {}


def results_of_other_weights(folders):
    """Which of "visualization" and "evaluation" were not made with the weights of the runs."""
    summary = dict_in(folders["visualization"] / "summary.json")
    evaluation = dict_in(folders["evaluation"] / "evaluation.json")
    stale = set()
    for name, run, kind, results in (
        ("visualization", "baseline", "discriminator", summary.get("without G", {})),
        ("visualization", "gan", "discriminator", summary.get("with G", {})),
        ("evaluation", "gan", "generator", evaluation),
    ):
        if name in stale or "sha256" not in results:
            continue
        digests = set()
        for path in folders[run].glob(f"{kind}*.safetensors"):
            network, metadata = load_model(path, kind=kind)
            digests |= {digest(network), metadata.get(BEFORE_ROUNDING)}
        if results["sha256"] not in digests:
            print(f"left out: {folders[name]} (not made with the {kind} of {folders[run]})")
            stale.add(name)
    return stale


# ------------------------------------------------------------------------------ pictures


def picture(file, alt, width=1400, **options):
    """{"source", "alt"} of an image for the template, as WebP of at most `width` pixels."""
    with Image.open(file) as image:
        image = image.convert("RGB")
    image.thumbnail((width, 16_383), Image.Resampling.LANCZOS)  # WebP's maximum height
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82, method=4, **options)
    content = base64.b64encode(buffer.getvalue()).decode()
    return {"source": f"data:image/webp;base64,{content}", "alt": alt}


def pictures(folder, *patterns):
    """Pictures in a folder, by layer, then by network: without G, with G, control networks."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern), reverse=True)]
    paths.sort(key=lambda path: path.stem.partition("_layer")[2])
    return [picture(path, path.stem.replace("_", " ")) for path in paths]


def frames(folder, pattern, label, **options):
    """Frames of a slider, by the number at the end of file names: [{"label", "images"}]."""
    paths_at = {}
    for path in sorted(folder.glob(pattern), reverse=True):
        if number := re.search(r"(?:^|epsilon)(\d+(?:\.\d+)?)$", path.stem):
            paths_at.setdefault(float(number[1]), []).append(path)
    slider = []
    for number in evenly_chosen(sorted(paths_at), MAX_FRAMES):
        text = label.format(number)
        images = [picture(path, f"{path.stem}, {text}", **options) for path in paths_at[number]]
        slider.append({"label": text, "images": images})
    return slider


# ------------------------------------------------------------------------------ numbers


def cards(folders, evaluation, truncation):
    """The key metrics that exist, [(title, value)]."""
    values = {}
    summary = dict_in(folders["visualization"] / "summary.json")
    networks = (("baseline", "without G", "classifier"), ("gan", "with G", "critic"))
    for run, network, name in networks:
        accuracy = dict_in(folders[run] / "summary.json").get("test_accuracy")
        values[f"test accuracy, {name}"] = accuracy
        if step := summary.get(network, {}).get("perturbation"):
            values[f"accuracy after one step of {step['epsilon']}, {name}"] = step["accuracy_after"]
    samples = evaluation.get("scores", {}).get("samples", {})
    values[f"class consistency of samples{truncation}"] = samples.get("class_consistency")
    return [(title, f"{value:.2f} %") for title, value in values.items() if value is not None]


def table(scores):
    """A table for the template from {name: {key: value}}, with a column for each number."""
    keys = dict.fromkeys(k for row in scores.values() for k, v in row.items() if is_number(v))
    rows = [(name, [short(row.get(key)) for key in keys]) for name, row in scores.items()]
    return {"columns": ["", *map(title_of, keys)], "rows": rows}
