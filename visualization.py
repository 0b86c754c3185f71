"""Look inside trained discriminators: perturb images, maximise class outputs, maximise features.

    python visualization.py                    # all three sections, layers 2 4 6 8
    python visualization.py --max_features 4   # one section only

Takes the discriminator trained without a generator (output/baseline) and the one trained with it
(output/gan), and leaves pictures and summary.json in visualization/.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import arguments
import runtime
from checkpoint import CheckpointError, find_export, load_model, published, write_atomically
from data_tools import DATASETS, DataError, load_dataset, mean_image, to_signed, to_uint8
from discriminator import NUM_LAYERS
from figures import save_image_grid
from image_gradients import class_objective, feature_objective, maximise, perturb
from progress import Progress
from run_log import RunError

DEFAULT_LAYERS = [2, 4, 6, 8]
ROWS_SHOWN = 5  # images of each class in the perturbation grids
USER_ERRORS = (runtime.DeviceError, DataError, CheckpointError, RunError)


# ------------------------------------------------------------------------------ arguments


def parse_layer(text):
    """A layer, or the True or False that switches the section."""
    if text.lower() in ("true", "false"):
        return arguments.switch(text)
    if not text.isdecimal() or not 1 <= int(text) <= NUM_LAYERS:
        raise argparse.ArgumentTypeError(f"layers are 1 to {NUM_LAYERS}, not {text!r}")
    return int(text)


def parse_args(argv=None):
    parser = arguments.Parser(__doc__.split("\n\n")[0])
    group = parser.add_argument_group("sections (none of them given: all)")
    switch = {"type": arguments.switch, "nargs": "?", "const": True, "default": None}
    group.add_argument("--perturb_images", help="adversarial perturbation", **switch)
    group.add_argument(
        "--max_classification_output", help="images that maximise the output of a class", **switch
    )
    group.add_argument(
        "--max_features",
        nargs="*",
        type=parse_layer,
        metavar="LAYER",
        help=f"images that maximise the features of these layers, 1 to {NUM_LAYERS}; "
        "no number: " + " ".join(map(str, DEFAULT_LAYERS)),
    )
    group = parser.add_argument_group("networks")
    for which, folder in (("without", "baseline"), ("with", "gan")):
        group.add_argument(
            f"--discriminator_{which}_G",
            metavar="PATH",
            help=f"exported weights, or a run's folder, of the discriminator trained {which} a "
            f"generator (default: output/{folder}; with neither, the published ones in results/)",
        )
    group = parser.add_argument_group("perturbation")
    group.add_argument(
        "--epsilon",
        type=arguments.pixel_levels,
        default="8/255",
        help="largest change of a pixel, in levels of 0 to 255",
    )
    group = parser.add_argument_group("maximisation")
    at_least = arguments.at_least
    group.add_argument("--steps", type=at_least(1), default=200, help="gradient steps")
    group.add_argument("--lr", type=at_least(0, float), default=0.1, help="size of a step")
    group.add_argument(
        "--decay", type=at_least(0, float), default=0.001, help="pull of each pixel toward grey"
    )
    group.add_argument(
        "--batch_size", type=at_least(1), default=250, help="images perturbed at once"
    )
    arguments.add_data_arguments(parser, train=False)
    arguments.add_device_arguments(parser, seed=False)
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", default="visualization", help="folder for the pictures")
    args = parser.parse_args(argv)

    layers = args.max_features
    if layers is not None:
        switches = [layer for layer in layers if isinstance(layer, bool)]
        if switches and len(layers) > 1:
            parser.error("--max_features takes layers, or one True or False, not both")
        layers = {True: DEFAULT_LAYERS, False: []}[switches[0]] if switches else layers
        args.max_features = layers if switches or layers else DEFAULT_LAYERS
    chosen = (args.perturb_images, args.max_classification_output, args.max_features)
    if not any(chosen):
        # Only what was not switched off by name.
        args.perturb_images = args.perturb_images is None
        args.max_classification_output = args.max_classification_output is None
        args.max_features = DEFAULT_LAYERS if args.max_features is None else []
    return args


# ------------------------------------------------------------------------------ the sections


def perturbation_section(args, model, name, test_set, precision, suffix):
    """Perturb every test image, count again, and draw the first few of each class."""
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    changed, gradients, before, after = [], [], [], []
    size = args.batch_size
    progress = Progress(f"perturb, {name}", -(-len(labels) // size), size)
    for batch, batch_labels in zip(images.split(size), labels.split(size), strict=True):
        batch = to_signed(batch)
        perturbed, gradient = perturb(model, batch, batch_labels, args.epsilon, precision)
        with torch.no_grad(), runtime.autocast(batch.device, precision):
            before.append(model(batch)[1].float().softmax(1))
            after.append(model(perturbed)[1].float().softmax(1))
        changed.append(to_uint8(perturbed))
        gradients.append(gradient)
        progress.step()
    progress.close()
    changed, gradients, before, after = map(torch.cat, (changed, gradients, before, after))

    def percent(right):
        return round(100 * right.double().mean().item(), 2)

    figures = {
        "epsilon": f"{args.epsilon:g}/255",
        "images": len(labels),
        "accuracy_before": percent(before.argmax(1) == labels),
        "accuracy_after": percent(after.argmax(1) == labels),
        "became_alternate_label": percent(after.argmax(1) == (labels + 1) % len(names)),
    }
    print(
        f"{name}: accuracy on {len(labels)} images {figures['accuracy_before']:.2f} % -> "
        f"{figures['accuracy_after']:.2f} % after {figures['epsilon']}; "
        f"{figures['became_alternate_label']:.2f} % became the alternate label"
    )

    # A row of the grid holds one image of each class.
    first = [torch.nonzero(labels == k).flatten()[:ROWS_SHOWN] for k in range(len(names))]
    rows = min(len(indices) for indices in first)
    shown = torch.stack([indices[:rows] for indices in first], dim=1).flatten()

    def verdict(probabilities):
        confidence, index = probabilities[shown].max(1)
        pairs = zip(index.tolist(), confidence.tolist(), strict=True)
        return [f"{names[k]} {100 * c:.0f} %" for k, c in pairs]

    first_verdict, last_verdict = verdict(before), verdict(after)
    strength = gradients[shown].abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    moved = [f"{b}\n→ {a}" for b, a in zip(first_verdict, last_verdict, strict=True)]
    files = {
        "real_images": (images[shown], first_verdict, "Test images and predictions"),
        "gradient_image": (
            to_uint8(gradients[shown] / strength),
            moved,
            "Gradient toward the next class, each scaled to its largest entry",
        ),
        "jittered_images": (
            changed[shown],
            moved,
            f"Perturbed by {figures['epsilon']}: prediction before → after",
        ),
    }
    for file, (grid, captions, title) in files.items():
        path = Path(args.output_dir) / f"{file}{suffix}.png"
        title = f"{title}; columns by true class ({name})"
        save_image_grid(grid, path, names, title, captions, scale=4)
        print(f"  {path}")
    return figures


def class_section(args, model, name, start, class_names, precision):
    """One image per class, from the same start, that maximises the class's logit."""
    progress = Progress(f"classes, {name}", args.steps, len(class_names))
    start = start.repeat(len(class_names), 1, 1, 1)
    objective = class_objective(model, precision)
    images, before, after = maximise(objective, start, args.steps, args.lr, args.decay, progress)
    progress.close()
    with torch.no_grad(), runtime.autocast(images.device, precision):
        probabilities = model(images)[1].float().softmax(1).diagonal().tolist()
    path = Path(args.output_dir) / f"max_class_{name.replace(' ', '_')}.png"
    reached = list(zip(class_names, before.tolist(), after.tolist(), probabilities, strict=True))
    captions = [f"logit {b:.1f} → {a:.1f}\np = {100 * p:.1f} %" for _, b, a, p in reached]
    title = f"Images that maximise a class's logit, discriminator trained {name}"
    columns = 5
    save_image_grid(
        to_uint8(images),
        path,
        title=title,
        captions=[f"{c}\n{text}" for c, text in zip(class_names, captions, strict=True)],
        columns=columns,
        scale=6,
        gap=8,
    )
    for class_name, b, a, p in reached:
        print(f"  {class_name:<12} logit {b:7.2f} -> {a:7.2f}, probability {100 * p:6.2f} %")
    print(f"  {path}")
    return {c: {"logit_before": b, "logit": a, "probability": p} for c, b, a, p in reached}


def feature_section(args, model, name, start, layer, precision):
    """For each of the first 100 features of a layer an image that maximises it."""
    count = min(100, model.width)
    progress = Progress(f"layer {layer}, {name}", args.steps, count)
    objective = feature_objective(model, layer, precision)
    start = start.repeat(count, 1, 1, 1)
    images, before, after = maximise(objective, start, args.steps, args.lr, args.decay, progress)
    progress.close()
    path = Path(args.output_dir) / f"max_features_{name.replace(' ', '_')}_layer{layer}.png"
    pairs = list(zip(before.tolist(), after.tolist(), strict=True))
    captions = [f"{b:.2f} → {a:.2f}" for b, a in pairs]
    title = (
        f"Layer {layer}, trained {name}: image i maximises feature i (activation before → after)"
    )
    save_image_grid(to_uint8(images), path, title=title, captions=captions)
    mean_before, mean_after = before.mean().item(), after.mean().item()
    print(f"  layer {layer}: mean activation {mean_before:.3f} -> {mean_after:.3f}; {path}")
    return {
        "mean_before": mean_before,
        "mean_after": mean_after,
        "before": before.tolist(),
        "after": after.tolist(),
    }


# ------------------------------------------------------------------------------ the run


NETWORKS = {  # name: flag, folder of the run, script that makes it
    "without G": ("discriminator_without_G", "baseline", "train_discriminator.py"),
    "with G": ("discriminator_with_G", "gan", "train_gan.py"),
}
WEIGHTS = "discriminator.safetensors"


def find_discriminators(args):
    """{"without G": path of the weights, "with G": ...}, where they are there or were asked for.

    The published ones stand in only where the user has neither and names neither: one's own may
    have been trained on other images.
    """
    own = {name: Path("output") / run / WEIGHTS for name, (_, run, _) in NETWORKS.items()}
    given = {name: getattr(args, flag) for name, (flag, _, _) in NETWORKS.items()}
    if not any(given.values()) and not any(path.is_file() for path in own.values()):
        own = {name: published(run, WEIGHTS) for name, (_, run, _) in NETWORKS.items()}
        if any(path.is_file() for path in own.values()):
            print("no run in output/: taking the published networks in results/")
    found = {}
    for name, (_, _, script) in NETWORKS.items():
        if given[name]:
            found[name] = find_export(given[name], WEIGHTS)
        elif own[name].is_file():
            found[name] = own[name]
        else:
            print(f"no discriminator trained {name}: left out (make it: {script})")
    return found


def load_discriminators(args, device):
    """{"without G": (network, metadata), "with G": ...}: those that are there.

    Raises CheckpointError where one that was named by a flag cannot be loaded, or none is there.
    """
    found = {}
    for name, path in find_discriminators(args).items():
        model, metadata = load_model(path, device, kind="discriminator")
        found[name] = (model.requires_grad_(False), {**metadata, "path": str(path)})
    if not found:
        raise CheckpointError(
            "no trained discriminator; run train_discriminator.py or train_gan.py first, or give "
            "--discriminator_without_G or --discriminator_with_G"
        )
    return found


def start_and_names(facts):
    """Where maximisation starts, (1, 3, 32, 32) in [-1, 1], and the class names; None if untold."""
    mean, names = mean_image(facts), facts.get("class_names")
    well_formed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if mean is None or not well_formed or len(names) != facts.get("num_classes", 10):
        return None
    return to_signed(mean), names


def load_images(args, models, device):
    """The test set that the networks were trained for. Raises DataError where it cannot be had."""
    names = sorted({str(metadata.get("dataset")) for _, metadata in models.values()})
    if args.dataset == "auto" and len(names) > 1:
        raise DataError(
            f"the networks were trained on different sets ({', '.join(names)}); give --dataset"
        )
    name = names[0] if args.dataset == "auto" else args.dataset
    if name not in DATASETS:
        raise DataError("the weights do not tell what set they were trained on; give --dataset")
    _, test_set = load_dataset(name, args.data_dir)
    print(f"data: {test_set.source}")
    test_set = test_set.first(args.limit_test)
    if args.perturb_images and test_set.labels.unique().numel() < len(test_set.class_names):
        raise DataError(
            f"--limit_test {args.limit_test} leaves a class without an image; take more"
        )
    return test_set.to(device)


def open_summary(path, models):
    """{name of the network: figures}, with those that an earlier command left of the same weights.

    Raises RunError where the folder belongs to a training run or cannot be written.
    """
    if (path.parent / "config.json").exists():
        raise RunError(f"{path.parent} holds a training run; give another --output_dir")
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = {}
    summary = {}
    for name, (model, metadata) in models.items():
        about = {"weights": metadata["path"], "step": metadata.get("step"), "width": model.width}
        kept = before.get(name, {})
        same = all(kept.get(key) == value for key, value in about.items())
        summary[name] = kept if same else about
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(summary, indent=2).encode())
    except OSError as error:
        raise RunError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    return summary


def run(args):
    """Make the pictures that the arguments ask for; returns every figure printed, as a dict.

    Raises one of USER_ERRORS for what the user can mend.
    """
    device = runtime.pick_device(args.device)
    precision = runtime.pick_precision(args.precision, device)
    runtime.keep_freed_memory()
    models = load_discriminators(args, device)
    # Perturbation needs test images; for the rest the weights tell all that is needed.
    facts = {name: start_and_names(metadata) for name, (_, metadata) in models.items()}
    test_set = None
    if args.perturb_images or not all(facts.values()):
        test_set = load_images(args, models, device)
        given = start_and_names(test_set.facts())
        facts = {name: found or given for name, found in facts.items()}
    summary_path = Path(args.output_dir) / "summary.json"
    summary = open_summary(summary_path, models)
    for name, (model, metadata) in models.items():
        print(f"discriminator trained {name}: {metadata['path']}, width {model.width}")
        figures = summary[name]
        start, class_names = facts[name][0].to(device), facts[name][1]
        if args.perturb_images:
            suffix = "" if name == next(iter(models)) else "_" + name.replace(" ", "_")
            figures["perturbation"] = perturbation_section(
                args, model, name, test_set, precision, suffix
            )
        if args.max_classification_output:
            figures["max_classification_output"] = class_section(
                args, model, name, start, class_names, precision
            )
        for layer in args.max_features or ():
            figures.setdefault("max_features", {})[str(layer)] = feature_section(
                args, model, name, start, layer, precision
            )
        write_atomically(summary_path, json.dumps(summary, indent=2).encode())
    print(f"figures: {summary_path}")
    return summary


def main(argv=None):
    args = parse_args(argv)
    return runtime.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
