"""Precision against recall of a generator whose latents' noise is cut off: a line for each limit.

    python benchmarks/truncation.py

As `evaluate_gan.py --truncation T` scores it, by the published classifier, for the published
generator, with the reference computed once. Writes a line for each T into --output, and a picture
of them beside it; `results/truncation` has those of the bare command.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from data_tools import DATASETS, DataError, load_dataset
from engine import cli
from engine.device import DeviceError, describe_device, pick_device, pick_precision
from engine.files import write_atomically
from engine.plots import save_charts
from engine.provenance import git_commit
from engine.weights import RESULTS, CheckpointError, check_classes, digest, find_export, load_model
from metrics import sampling
from metrics.scores import Judge, ScoreError, score_table

USER_ERRORS = (CheckpointError, DataError, DeviceError, ScoreError, OSError)
FIGURES = {  # of a score_table: decimals
    "precision": 3,
    "recall": 3,
    "density": 3,
    "coverage": 3,
    "frechet_distance": 2,
    "class_consistency": 1,
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument(
        "--truncations",
        type=cli.at_least(0.01, float),
        nargs="+",
        default=[0.25, 0.5, 0.75, 1, 1.5, 2],
        metavar="T",
        help="limits of the noise; the whole noise comes after them",
    )
    parser.add_argument("--samples", type=cli.at_least(20), default=10_000, help="for each")
    parser.add_argument("--generator", default=RESULTS / "gan", help="weights, or their folder")
    parser.add_argument("--judge", default=RESULTS / "baseline", help="likewise, of a classifier")
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="of the generator")
    parser.add_argument("--data_dir", help="its folder")
    parser.add_argument("--limit_train", type=cli.at_least(20), help="images to compare with")
    cli.add_device_arguments(parser)
    parser.add_argument(
        "--output", type=cli.new_file, default="output/truncation.jsonl", help="file of the scores"
    )
    args = parser.parse_args(argv)
    if args.output.suffix == ".png":
        parser.error("--output is the file of the scores; their picture stands beside it as .png")
    return args


def run(args):
    """Score the samples of each limit, and draw the curve. Raises one of USER_ERRORS."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    path = find_export(args.generator, "generator.safetensors")
    generator, metadata = load_model(path, device, kind="generator")
    judge = Judge(find_export(args.judge, "discriminator.safetensors"), device, precision)
    train = load_dataset(args.dataset, args.data_dir)[0].first(args.limit_train)
    names = train.class_names
    check_classes("the generator", metadata, train)
    judge.check_set(train)
    reference, _ = judge.features_and_classes(train.images, title="judge, training images")
    labels = sampling.sample_labels(args.samples, range(len(names)))
    source = {
        "commit": git_commit(),
        "device": describe_device(device),
        "generator_sha256": digest(generator),
        "dataset": args.dataset,
        "samples": args.samples,
        "seed": args.seed,
    }
    lines = []
    for truncation in [*args.truncations, None]:
        latents = sampling.latents_of(
            labels, generator.latent_dim, args.seed, num_classes=len(names), truncation=truncation
        )
        samples = sampling.draw(generator, latents, precision=precision)
        judged = *judge.features_and_classes(samples), labels
        scores = score_table({"samples": judged}, reference, names, args.seed)["samples"]
        figures = {name: round(scores[name], digits) for name, digits in FIGURES.items()}
        lines.append(source | {"truncation": truncation or "none"} | figures)
        print(lines[-1], flush=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(args.output, text.encode())
    draw(lines, args.output.with_suffix(".png"))


def draw(lines, path):
    """Precision over recall, and density over coverage, with a dot for each limit."""
    charts = {}
    for x, y in (("recall", "precision"), ("coverage", "density")):
        dots = {"_": ([line[x] for line in lines], [line[y] for line in lines], {"color": "0.8"})}
        for line in lines:
            style = {"marker": "o", "linestyle": ""}
            dots[str(line["truncation"])] = ([line[x]], [line[y]], style)
        charts[f"{y.capitalize()} against {x}, by truncation"] = {"x": x, "y": y, "lines": dots}
    save_charts(charts, path)


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv), USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
