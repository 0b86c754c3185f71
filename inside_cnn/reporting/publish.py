"""Copy a finished run to results/: settings, log, pictures, weights in 8 bits.

    python -m inside_cnn.reporting.publish output/baseline results/baseline

A discriminator is evaluated in float32 before and after rounding to 8 bits; the metadata of the
published file has the accuracy after rounding. A run that was published there before is replaced.
Paths of this machine are removed.
"""

import json
from pathlib import Path

from data_tools import load_dataset
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import read_json, write_atomically, writing_to
from inside_cnn.engine import cli, weights
from inside_cnn.metrics.classifier import evaluate

NETWORKS = ("discriminator.safetensors", "generator.safetensors")
PRIVATE = ("data_dir", "output_dir", "judge", "fixed_generator")  # paths of this machine


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("target", metavar="FOLDER", help="folder to create or replace")
    epoch, epochs = cli.at_least(0), "also copy the sample grids of these epochs"
    parser.add_argument("--sample_epochs", type=epoch, nargs="*", default=[], help=epochs)
    parser.add_argument("--skip_curves", action="store_true", help="do not copy curves.png")
    parser.add_argument("--data_dir", help="folder of the training data")
    return parser.parse_args(argv)


def run(args):
    """Publish a run. Raises UserError; OSError, with nothing written, if a file is missing."""
    source, target = Path(args.run), Path(args.target)
    if not (source / "summary.json").is_file():
        raise UserError(f"{source} is not the folder of a finished run")
    was_published = (target / "config.json").exists() and not (target / "checkpoints").exists()
    if target.exists() and not was_published:
        raise UserError(f"{target} exists and is not the folder of a published run")
    names = ["metrics.jsonl", "summary.json"] + ([] if args.skip_curves else ["curves.png"])
    names += [f"samples/{epoch:03d}.png" for epoch in args.sample_epochs]
    files = {name: (source / name).read_bytes() for name in names}
    config = read_json(source / "config.json")
    config["settings"] = published(config["settings"])
    for resumed in config.get("resumed", []):
        resumed["changed"] = published(resumed["changed"])
    files["config.json"] = json.dumps(config, indent=2).encode() + b"\n"
    trained = [name for name in NETWORKS if (source / name).is_file()]
    networks = {name: rounded(source / name, args.data_dir) for name in trained}
    samples = [f"samples/{path.name}" for path in target.glob("samples/*.png")]
    stale = {*NETWORKS, "curves.png", *samples} - {*files, *networks}
    with writing_to(target):
        for name, content in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target / name, content)
        for name, (network, metadata) in networks.items():
            weights.export_model(network, target / name, metadata, in_8_bits=True)
        for name in stale:
            (target / name).unlink(missing_ok=True)
    print(f"published: {target}")


def published(settings):
    """The settings of a run without paths of this machine."""
    return {name: value for name, value in settings.items() if name not in PRIVATE}


def rounded(path, data_dir):
    """(the network with weights rounded to 8 bits, its metadata with the metrics of these)."""
    model, metadata = weights.load_model(path)
    # Figures and scores record the digest of the weights before rounding.
    metadata.setdefault(weights.BEFORE_ROUNDING, weights.digest(model))
    if metadata["kind"] == "generator":
        return model, metadata
    train_set, test_set = load_dataset(metadata["dataset"], data_dir)
    if held_out := metadata.get("hold_out"):
        _, test_set = train_set.hold_out(held_out)
    weights.check_classes(path, metadata, test_set)
    before = evaluate(model, test_set, "fp32")["test_accuracy"]
    model.load_state_dict(weights.from_8_bits(weights.to_8_bits(model.state_dict())))
    metrics = evaluate(model, test_set, "fp32")
    print(f"{path}: test accuracy {before} %, in 8 bits {metrics['test_accuracy']} %")
    return model, metadata | {**metrics, "precision": "fp32", "test_images": len(test_set)}


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
