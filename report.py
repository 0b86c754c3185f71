"""One self-contained web page out of what the runs left: figures, curves, samples, pictures.

    python report.py                       # writes report.html

Takes output/baseline, output/gan, visualization/ and evaluation/, or the published ones in results/
where the user has no run, and leaves out what is missing with a line that says how to make it. The
page needs no network and no other file.
"""

import json
import string
from pathlib import Path

from engine import cli, weights
from engine.files import write_atomically
from reporting.page import (
    cards,
    chart_data,
    epsilon_frames,
    film,
    layer_tables,
    missing,
    percent,
    pictures,
    read_json,
    read_records,
    sample_frames,
    score_table,
    text,
)
from training import panels
from training.run_folder import RunError

USER_ERRORS = (RunError,)
PAGE = Path(__file__).parent / "reporting" / "page.html"
LIMIT = 15 * 10**6  # bytes

PICTURES = {  # heading: (files, how to read them, command)
    "Images that maximise a class": (
        ["max_class_without_G.png", "max_class_with_G.png"],
        'Each image was climbed until its class\'s logit, given below it, was high; "moved" is its '
        "mean over shifted, turned, scaled and noisy views. What you recognise, the network relies "
        "on.",
        "python visualization.py --max_classification_output",
    ),
    "Features of the layers": (
        [
            f"max_features_{which}_G_layer{layer}.png"
            for layer in range(1, 9)
            for which in ("without", "with")
        ],
        "Each image that no camera took excites one feature, whose number and activation stand "
        "below it. Where test images stand beside it, they excite the feature most; frames show "
        "the pixels that the responsible unit sees. Give the feature a name.",
        "python visualization.py --max_features",
    ),
    "Where it looks": (
        ["attribution_without_G.png", "attribution_with_G.png"],
        "Bright regions speak for the class that was named (Grad-CAM). Bright pixels count most, "
        "for or against it, compared with the image out of focus (integrated gradients).",
        "python visualization.py --attribution",
    ),
    "One step toward the wrong class": (
        ["jittered_images.png", "jittered_images_with_G.png"],
        "Below each image: what the network said before the step, and what it says now.",
        "python visualization.py --perturb_images",
    ),
    "How strong must a perturbation be?": (
        ["robustness.png", "smallest_epsilon_without_G.png", "smallest_epsilon_with_G.png"],
        "The sooner a solid line falls on the left, the easier the network is misled. Dotted: "
        "random noise of the same size, the control.",
        "python visualization.py --perturb_images",
    ),
    "Layer by layer": (
        ["layers.png"],
        "How well a linear classifier reads the class from each layer, how many features answer to "
        "one class above all or to no image at all, and how alike the two networks are.",
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
        "Samples above the training images that are nearest to them.",
        "python evaluate_gan.py",
    ),
}

SOURCES = {  # flag: the file that says that one's own is there, and that of the published
    "baseline": ("output/baseline/config.json", "baseline/summary.json"),
    "gan": ("output/gan/config.json", "gan/summary.json"),
    "visualization": ("visualization/summary.json", "visualization/summary.json"),
    "evaluation": ("evaluation/evaluation.json", "evaluation/evaluation.json"),
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page")
    for flag, files in SOURCES.items():
        own, kept = (Path(file).parent for file in files)
        parser.add_argument(
            f"--{flag}", metavar="FOLDER", help=f"(default: {own}, without one {kept} of results/)"
        )
    return parser.parse_args(argv)


def find_folders(args):
    """{"baseline": folder, ...}: as given, else one's own where any is there, else the published.

    A run that was given is one's own: published figures of other networks never stand beside it.
    Raises RunError for a folder that was given and is not there.
    """
    wanted = {}
    for flag, (own, kept) in SOURCES.items():
        given = getattr(args, flag)
        if given is not None and not Path(given).is_dir():
            raise RunError(f"--{flag}: there is no folder {given}")
        asked_for = None if given is None else Path(given) / Path(own).name
        wanted[flag] = (asked_for, Path(own), weights.RESULTS / kept)
    files = weights.own_or_published({flag: wanted[flag] for flag in ("baseline", "gan")})
    of_own_runs = any(
        wanted[flag][0] is not None or path != wanted[flag][2] for flag, path in files.items()
    )
    # With no run of one's own, one's own pictures show the published networks.
    pictures = {}
    for flag in ("visualization", "evaluation"):
        given, own, theirs = wanted[flag]
        pictures[flag] = (given, own, None if of_own_runs else theirs)
    files |= weights.own_or_published(pictures, mixed=True)
    return {flag: file.parent for flag, file in files.items()}


# ------------------------------------------------------------------------------ the page


def build(folders):
    """The page as a string."""
    charts, films, body = [], {}, []
    baseline, gan = (read_json(folders[run] / "summary.json") for run in ("baseline", "gan"))
    summary = read_json(folders["visualization"] / "summary.json")
    evaluation = read_json(folders["evaluation"] / "evaluation.json")

    samples = evaluation_row(evaluation)

    tiles = {
        "test accuracy, without G": percent(baseline, "test_accuracy"),
        "test accuracy, with G": percent(gan, "test_accuracy"),
    }
    for name in ("without G", "with G"):
        figures = summary.get(name)
        figures = figures.get("perturbation") if isinstance(figures, dict) else None
        if isinstance(figures, dict):
            words = f"accuracy after one step of {figures.get('epsilon')}, {name}"
            tiles[words] = percent(figures, "accuracy_after")
    tiles["class consistency of samples"] = percent(samples, "class_consistency")

    body += [
        "<h1>What does a convolutional network learn?</h1>",
        "<p>An eight-layer network, trained once as a classifier (without G) and once as the "
        "critic of a class-conditional GAN against a generator (with G), and a look inside both."
        "</p>",
        cards(tiles),
        "<h2>Learning curves</h2>",
    ]
    for run, heading, script, drawn in (
        ("baseline", "The classifier", "train_discriminator.py", panels.CLASSIFIER),
        ("gan", "The GAN", "train_gan.py", panels.GAN),
    ):
        records = read_records(folders[run])
        body.append(f"<h3>{heading}</h3>")
        if not records:
            body.append(missing(f"{heading}'s curves", f"python {script}"))
            continue
        body.append('<div class="charts">')
        for chart in chart_data(records, drawn):
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
        settings = config.get("settings")
        if isinstance(settings, dict):  # the page may be passed on: nobody else has these folders
            own = ("data_dir", "output_dir", "judge")
            config["settings"] = {k: v for k, v in settings.items() if k not in own}
            config.pop("resumed", None)
            words = text(json.dumps(config, indent=1))
            body.append(f'<h3>{heading}</h3><pre tabindex="0">{words}</pre>')
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
    return cli.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
