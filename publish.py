"""Copy what is worth keeping of a finished run to results/: settings, log, pictures, small weights.

    python publish.py output/baseline results/baseline

The weights are rounded to 16 bits, half the size, and tested again: the accuracy that the published
file states is that of the file. Paths of this machine are left out of the settings.
"""

import json
import shutil
from pathlib import Path

import arguments
import runtime
from checkpoint import CheckpointError, export_model, load_model, write_atomically
from data_tools import DataError, load_dataset
from run_log import RunError
from train_discriminator import evaluate

USER_ERRORS = (runtime.DeviceError, DataError, CheckpointError, RunError)
COPIED = ("metrics.jsonl", "curves.png", "summary.json")
OF_THIS_MACHINE = ("data_dir", "output_dir", "judge")
NETWORKS = ("discriminator.safetensors", "generator.safetensors")


def parse_args(argv=None):
    parser = arguments.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("target", metavar="FOLDER", help="where to put it")
    parser.add_argument(
        "--sample_epochs",
        type=arguments.at_least(0),
        nargs="*",
        default=[],
        metavar="N",
        help="also copy the sample grids of these epochs",
    )
    arguments.add_data_arguments(parser, train=False)
    arguments.add_device_arguments(parser, seed=False)
    parser.set_defaults(precision="fp32")  # so that the figure is the same on every machine
    return parser.parse_args(argv)


def run(args):
    """Publish a run as the arguments say; returns {file name: metadata of the weights}.

    Raises one of USER_ERRORS for what the user can mend.
    """
    device = runtime.pick_device(args.device)
    precision = runtime.pick_precision(args.precision, device)
    source, target = Path(args.run), Path(args.target)
    if not (source / "summary.json").is_file():
        raise RunError(f"{source} holds no finished run")
    if target.resolve() == source.resolve():
        raise RunError("give a folder other than the run's own")
    grids = [source / "samples" / f"{epoch:03d}.png" for epoch in args.sample_epochs]
    missing = [str(path) for path in grids if not path.is_file()]
    if missing:
        raise RunError(f"no sample grid {', '.join(missing)}")
    found = {}
    try:
        config = json.loads((source / "config.json").read_text())
        target.mkdir(parents=True, exist_ok=True)
        for name in NETWORKS:
            if (source / name).is_file():
                found[name] = publish_weights(args, source / name, target / name, device, precision)
        for settings in (config["settings"], *(r["changed"] for r in config.get("resumed", []))):
            for key in OF_THIS_MACHINE:
                settings.pop(key, None)
        write_atomically(target / "config.json", json.dumps(config, indent=2).encode() + b"\n")
        for path in (source / name for name in COPIED):
            shutil.copyfile(path, target / path.name)
        for path in grids:
            (target / "samples").mkdir(exist_ok=True)
            shutil.copyfile(path, target / "samples" / path.name)
    except OSError as error:
        raise RunError(f"cannot copy {error.filename or source}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{source / 'config.json'} is damaged") from None
    print(f"published: {target}")
    return found


def publish_weights(args, source, target, device, precision):
    """Write the weights in 16 bits; a discriminator's test figures are taken anew, and returned."""
    model, metadata = load_model(source, device)
    model.half().float()  # what a loader of the new file gets
    if metadata["kind"] == "discriminator":
        name = metadata["dataset"] if args.dataset == "auto" else args.dataset
        _, test_set = load_dataset(name, args.data_dir)
        figures = evaluate(model, test_set.first(args.limit_test).to(device), precision)
        before = metadata.get("test_accuracy")
        print(f"{source}: test accuracy {before} %, in 16 bits {figures['test_accuracy']} %")
        metadata |= figures
    export_model(model.half(), target, metadata)
    return metadata


def main(argv=None):
    args = parse_args(argv)
    return runtime.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
