"""One self-contained web page out of what the runs left: figures, curves, samples, pictures.

    python report.py                       # writes report.html

Takes output/baseline, output/gan, visualization/ and evaluation/, or the published ones in results/
where the user has no run, and leaves out what is missing with a line that says how to make it. The
page needs no network and no other file.
"""

import base64
import html
import io
import json
import re
import string
from pathlib import Path

from PIL import Image

import arguments
import checkpoint
import runtime
import train_discriminator
import train_gan
from checkpoint import write_atomically
from run_log import RunError
from section_layers import TABLE as LAYER_TABLE

USER_ERRORS = (RunError,)
PAGE = Path(__file__).parent / "report_page.html"
LIMIT = 15 * 10**6  # bytes
MAX_FRAMES = 24  # epochs on the slider of the sample grids
QUALITY = 82  # of WebP

PICTURES = {  # heading: (files, how to read them, command)
    "Images that maximise a class": (
        ["max_class_without_G.png", "max_class_with_G.png"],
        "Each image was climbed until the network named the class above it with the highest logit. "
        "What you recognise is what the network relies on; what you do not, it relies on too.",
        "python visualization.py --max_classification_output",
    ),
    "Features of the layers": (
        [
            f"max_features_{which}_G_layer{layer}.png"
            for layer in range(1, 9)
            for which in ("without", "with")
        ],
        "Left in each group: an image that excites one feature, enlarged to what it sees. Beside "
        "it: the test images that excite it most, the responsible pixels framed. Give it a name.",
        "python visualization.py --max_features",
    ),
    "Where it looks": (
        ["attribution_without_G.png", "attribution_with_G.png"],
        "Bright regions speak for the class that was named (Grad-CAM); bright pixels count most "
        "for its logit (integrated gradients).",
        "python visualization.py --attribution",
    ),
    "One step toward the wrong class": (
        ["jittered_images.png", "jittered_images_with_G.png"],
        "To us they are the images they were. Below each: what the network said before, and what "
        "it says now.",
        "python visualization.py --perturb_images",
    ),
    "How strong must a perturbation be?": (
        [
            *("robustness.png", "smallest_epsilon_without_G.png", "smallest_epsilon_with_G.png"),
        ],
        "The lower a curve falls, and the sooner, the easier the network is misled. Dotted: random "
        "noise of the same size, which hardly matters.",
        "python visualization.py --perturb_images",
    ),
    "Layer by layer": (
        ["layers.png"],
        "How much of the class a linear classifier reads from each layer, how many features answer "
        "to one class alone or to none, and how alike the two networks are.",
        "python visualization.py --compare_layers",
    ),
}
SAMPLES = {
    "The generator's samples": (
        ["samples.png"],
        "One class in each column.",
        "python evaluate_gan.py",
    ),
    "Does it copy?": (
        ["nearest.png"],
        "Samples above the training images that are nearest to them: alike in kind, not in detail.",
        "python evaluate_gan.py",
    ),
}


def parse_args(argv=None):
    parser = arguments.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page")
    for flag, own, kept in SOURCES:
        parser.add_argument(
            f"--{flag}", metavar="FOLDER", help=f"(default: {own}, without one {kept} of results/)"
        )
    return parser.parse_args(argv)


SOURCES = (
    ("baseline", "output/baseline", "baseline"),
    ("gan", "output/gan", "gan"),
    ("visualization", "visualization", "visualization"),
    ("evaluation", "evaluation", "evaluation"),
)


def find_folders(args):
    """{"baseline": folder, ...}: as given, else one's own where any is there, else the published.

    Raises RunError for a folder that was given and is not there.
    """
    own = {flag: Path(folder) for flag, folder, _ in SOURCES}
    has_own = any((own[flag] / "config.json").is_file() for flag in ("baseline", "gan"))
    folders = {}
    for flag, _, kept in SOURCES:
        given = getattr(args, flag)
        if given is not None and not Path(given).is_dir():
            raise RunError(f"--{flag}: there is no folder {given}")
        folders[flag] = (
            Path(given) if given else own[flag] if has_own else checkpoint.RESULTS / kept
        )
    return folders


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
    except OSError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if isinstance(record, dict) and isinstance(record.get("epochs_done"), int | float):
            records.append(record)
    return records


def webp(path, width=1400):
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
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
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
        f'<figure><div class="wide" role="region" tabindex="0" aria-label="{text(alt)}">'
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
        f'<figure><div class="wide" role="region" tabindex="0" aria-label="{text(alt)}">'
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
        images = [webp(found[epsilon][which]) for which in names]
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
        (name, [f"{row[key]:.4g}" if _number(row.get(key)) else "" for key in SCORES])
        for name, row in scores.items()
        if isinstance(row, dict)
    ]
    return table("images", SCORES.values(), rows, "Scores of the samples")


# ------------------------------------------------------------------------------ the page


def build(folders):
    """The page as a string."""
    charts, films, body = [], {}, []
    baseline, gan = (read_json(folders[run] / "summary.json") for run in ("baseline", "gan"))
    summary = read_json(folders["visualization"] / "summary.json")
    evaluation = read_json(folders["evaluation"] / "evaluation.json")

    samples = evaluation_row(evaluation)

    def perturbed(name):
        figures = summary.get(name)
        figures = figures.get("perturbation") if isinstance(figures, dict) else None
        return percent(figures, "accuracy_after") if isinstance(figures, dict) else None

    body += [
        "<h1>What does a convolutional network learn?</h1>",
        "<p>An eight-layer network, trained once as a classifier (without G) and once as the "
        "critic of a class-conditional GAN against a generator (with G), and a look inside both."
        "</p>",
        cards(
            {
                "test accuracy, without G": percent(baseline, "test_accuracy"),
                "test accuracy, with G": percent(gan, "test_accuracy"),
                "perturbed, without G": perturbed("without G"),
                "perturbed, with G": perturbed("with G"),
                "class consistency of samples": percent(samples, "class_consistency"),
            }
        ),
        "<h2>Learning curves</h2>",
    ]
    for run, heading, script in (
        ("baseline", "The classifier", train_discriminator),
        ("gan", "The GAN", train_gan),
    ):
        records = read_records(folders[run])
        body.append(f"<h3>{heading}</h3>")
        if not records:
            body.append(missing(f"{heading}'s curves", f"python {script.__name__}.py"))
            continue
        body.append('<div class="charts">')
        for chart in chart_data(records, script.PANELS):
            heading = f"<h4>{text(chart['title'])}</h4>"
            body.append(f'<div class="chart" data-chart="{len(charts)}">{heading}</div>')
            charts.append(chart)
        body.append("</div>")

    body.append("<h2>What the generator draws</h2>")
    frames = sample_frames(folders["gan"])
    if frames:
        films["epoch"] = {"frames": frames}
        body.append("<p>The same 100 latents after each epoch, one class in each column.</p>")
        body.append(film("epoch", "Epoch", frames))
    else:
        body.append(missing("The samples", "python train_gan.py"))
    body.append(score_table(evaluation))
    body.append(pictures(folders["evaluation"], SAMPLES))

    body.append("<h2>What misleads it</h2>")
    frames = epsilon_frames(folders["visualization"])
    if frames:
        films["epsilon"] = {"frames": frames}
        body.append(
            "<p>Projected gradient descent may change every pixel by the given number of levels. "
            "Below each image: what the network says.</p>"
        )
        body.append(film("epsilon", "Largest change of a pixel", frames))
    else:
        body.append(missing("The perturbed images", "python visualization.py --perturb_images"))
    body.append("<h2>A look inside</h2>")
    body.append(pictures(folders["visualization"], PICTURES))
    body.append(layer_tables(summary))

    body.append("<h2>How it was made</h2>")
    for run, heading in (("baseline", "The classifier"), ("gan", "The GAN")):
        config = read_json(folders[run] / "config.json")
        if config:
            body.append(f"<h3>{heading}</h3><pre>{text(json.dumps(config, indent=1))}</pre>")
    return string.Template(PAGE.read_text()).substitute(
        title="What does a convolutional network learn?",
        body="\n".join(body),
        films=in_script(films),
        charts=in_script(charts),
    )


def evaluation_row(evaluation):
    scores = evaluation.get("scores")
    row = scores.get("samples") if isinstance(scores, dict) else None
    return row if isinstance(row, dict) else {}


def in_script(value):
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def run(args):
    """Write the page; returns its path. Raises RunError for what the user can mend."""
    folders = find_folders(args)
    page = build(folders).encode()
    output = Path(args.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, page)
    except OSError as error:
        raise RunError(f"cannot write {output}: {error.strerror or error}") from None
    for flag, folder in folders.items():
        print(f"{flag}: {folder}{'' if folder.is_dir() else ' (not there)'}")
    print(f"report: {output}, {len(page) / 1e6:.1f} MB")
    if len(page) > LIMIT:
        print(f"warning: larger than {LIMIT / 1e6:.0f} MB; phones may be slow to open it")
    return output


def main(argv=None):
    args = parse_args(argv)
    return runtime.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
