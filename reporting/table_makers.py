"""Every table of figures by its name, as Markdown, out of results/."""

import itertools
import statistics
from typing import NamedTuple

from reporting.file_tables import TABLES_OF_A_FILE
from reporting.markdown import TableError, in_words, markdown, read_json, read_lines

# ------------------------------------------------------------------------------ the trainings


class Run:
    """A published run: its settings, its log, how long its steps took."""

    def __init__(self, folder):
        config = read_json(folder / "config.json")
        self.settings, self.device = config["settings"], config["device"]
        self.summary = read_json(folder / "summary.json")
        self.log = read_lines(folder / "metrics.jsonl")

    def seconds(self):
        """Of the training steps, by the log's images per second: without tests and pictures."""
        total = step = 0
        for record in self.log:
            images = (record["step"] - step) * self.settings["batch_size"]
            total, step = total + images / record["images_per_second"], record["step"]
        return total


class Runs(NamedTuple):
    """Runs that differ by their seed alone.

    command: without its seed; folders: {folder in results/: seed}.
    """

    what: str
    command: str
    folders: dict


# A test compares commands and settings.
MAIN_RUNS = (
    Runs("**classifier**", "python train_discriminator.py", {"baseline": 0}),
    Runs("**critic of the GAN**", "python train_gan.py", {"gan": 0}),
    Runs(
        "seeds of the classifier",
        "python train_discriminator.py --epochs 8",
        {f"controls/seed_{seed}": seed for seed in range(3)},
    ),
    Runs(
        "control: no holes, smoothing, average",
        "python train_discriminator.py --epochs 8 --hole 0 --label_smoothing 0 --ema_decay 0",
        {"controls/as_critic": 0},
    ),
)
RUNS = (
    *MAIN_RUNS,
    Runs(
        "classifier, for longer",
        "python train_discriminator.py --epochs 64",
        {"baseline_64_epochs": 0},
    ),
    Runs(
        "the homework's recipe",
        "python train_discriminator.py --recipe classic --epochs 32",
        {"classic_32_epochs": 0},
    ),
)


def runs(results, shown=RUNS):
    """Of several seeds the mean accuracy, its standard deviation, and the mean time."""
    rows = []
    for what, command, folders in shown:
        found = [Run(results / folder) for folder in folders]
        accuracies = [run.summary["test_accuracy"] for run in found]
        accuracy = f"{statistics.mean(accuracies):.2f}"
        if len(found) > 1:
            accuracy += f" ± {statistics.stdev(accuracies):.2f}"
        seeds = ", ".join(map(str, folders.values()))
        (epochs,), (device,) = ({r.settings["epochs"] for r in found}, {r.device for r in found})
        took = in_words(statistics.mean(run.seconds() for run in found))
        rows.append([what, accuracy, seeds, epochs, took, device, f"`{command}`"])
    headings = ["network", "test accuracy, %", "seed", "epochs", "training took", "on", "command"]
    return markdown(headings, rows)


def main_runs(results):
    """Those that `make full` makes; of their commands the bare ones."""
    shown = [r if "--" not in r.command else r._replace(command="make full") for r in MAIN_RUNS]
    return runs(results, shown)


def gan_log(results):
    """The records of the published GAN's log that hold scores."""
    rows = [
        [
            f"{record['epochs_done']:.0f}",
            f"{record['test_accuracy']:.2f}",
            f"{record['frechet_distance']:.1f}",
            f"{record['class_consistency']:.1f}",
        ]
        for record in Run(results / "gan").log
        if "frechet_distance" in record
    ]
    return markdown(["epoch", "test accuracy, %", "Frechet", "class consistency, %"], rows)


# ------------------------------------------------------------------------------ the samples


def evaluation(results):
    return read_json(results / "evaluation" / "evaluation.json")


def scores(results):
    rows = [
        [
            f"**{name}**" if name == "samples" else name,
            f"{row['images']:,}",
            f"{row['frechet_distance']:.2f}",
            f"{row['kernel_distance']:.2f} ± {row['kernel_distance_std']:.2f}",
            *(f"{row[field]:.2f}" for field in ("precision", "recall", "density", "coverage")),
            f"{row['class_consistency']:.1f} %",
        ]
        for name, row in evaluation(results)["scores"].items()
    ]
    fields = ["Frechet", "kernel", "precision", "recall", "density", "coverage"]
    return markdown(["", "images", *fields, "class consistency"], rows)


def fid(results):
    """Of the published generator, each comparison with its protocol; why, where it was left out."""
    found = evaluation(results)["inception"]
    if "left_out" in found:
        return f"FID and KID are left out: {found['left_out']}."
    rows = []
    for name, row in found["scores"].items():
        kid, spread = 1000 * row["kid"], 1000 * row["kid_std"]
        sizes = [f"{row['images']:,}", f"{row['reference_images']:,}"]
        rows.append([name, *sizes, f"{row['fid']:.2f}", f"{kid:.2f} ± {spread:.2f}"])
    return markdown(["what against what", "images", "reference", "FID", "1000 x KID"], rows)


def memorization(results):
    """Distances to the nearest training image, and how many are below the test images' 1 %."""
    rows = []
    for name, row in evaluation(results)["memorization"]["sets"].items():
        distances = (f"{row[f'percentile_{p}']:.1f}" for p in (1, 10, 50))
        detected = "{:.2f} ({:.2f} to {:.2f})".format(row["detected"], *row["interval"])
        name = f"**{name}**" if name == "samples" else name
        rows.append([name, f"{row['images']:,}", *distances, detected])
    percentiles = ["distance, percentile 1", "10", "50"]
    return markdown(["", "images", *percentiles, "detected, % (95 % interval)"], rows)


# ------------------------------------------------------------------------------ the pictures


SEEDS = ("seed_0", "seed_1", "seed_2")
NAMES = {  # in visualization/summary.json: what a table calls it
    "without G": "classifier",
    **{name: name.replace("_", " ") for name in SEEDS},
    "as_critic": "control",
    "with G": "critic",
}


def inside(results, section):
    """{network: what visualization.py found in this section}."""
    summary = read_json(results / "visualization" / "summary.json")
    return {name: summary[name][section] for name in NAMES}


def layers(results):
    """What a probe reads and the share of features for one class, a row each; of seeds the mean."""
    found = inside(results, "layers")
    sees = found["without G"]["receptive_field"]
    compared = {"classifier": ["without G"], "seeds": SEEDS}
    compared |= {"control": ["as_critic"], "critic": ["with G"]}
    rows = [["a unit sees, pixels", *sees]]
    for field, words in {"probe_accuracy": "probe", "selective_share": "for one class"}.items():
        for name, networks in compared.items():
            columns = zip(*(found[network][field] for network in networks), strict=True)
            cells = (f"{statistics.mean(values):.0f}" for values in columns)
            rows.append([f"{words}, %: {name}", *cells])
    return markdown(["layer", *range(1, len(sees) + 1)], rows)


def similarity(results):
    """Linear CKA of two networks, layer by layer; of several pairs the mean and the extremes."""
    found = inside(results, "layers")
    compared = {
        "classifier, critic": [("without G", "with G")],
        "control, critic": [("as_critic", "with G")],
        "a seed, classifier": [(seed, "without G") for seed in SEEDS],
        "a seed, critic": [(seed, "with G") for seed in SEEDS],
        "a seed, control": [(seed, "as_critic") for seed in SEEDS],
        "two seeds": list(itertools.combinations(SEEDS, 2)),
    }
    rows = []
    for index in range(len(found["without G"]["receptive_field"])):
        cells = []
        for pairs in compared.values():
            values = [found[one]["cka"][other][index] for one, other in pairs]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        rows.append([index + 1, *cells])
    return markdown(["layer", *compared], rows)


ATTACKS = {"noise": "noise", "step": "one step", "pgd": "20 steps"}


def robustness(results):
    studies = inside(results, "strength_study")
    rows = [
        [words, NAMES[name], *(f"{share:.0f}" for share in (of["accuracy_clean"], *accuracies))]
        for attack, words in ATTACKS.items()
        for name, of in studies.items()
        for accuracies in [of[f"{attack}_accuracy"]]
    ]
    levels = (f"{epsilon:g}" for epsilon in studies["without G"]["epsilons"])
    return markdown(["", "accuracy, % at levels:", "0", *levels], rows)


def perturbation(results):
    rows = [
        [
            NAMES[name],
            f"{of['accuracy_before']:.2f}",
            f"{of['accuracy_after']:.2f}",
            f"{of['became_alternate_label']:.1f}",
        ]
        for name, of in inside(results, "perturbation").items()
    ]
    return markdown(["accuracy, %", "before", "after", "named as the class aimed at"], rows)


# ------------------------------------------------------------------------------ by name


TABLES = {
    "runs": runs,
    "main runs": main_runs,
    "scores": scores,
    "fid": fid,
    "memorization": memorization,
    "layers": layers,
    "similarity": similarity,
    "robustness": robustness,
    "perturbation": perturbation,
    "gan log": gan_log,
}


def make_table(name, results):
    """The Markdown of one table by its name: one of TABLES, or `trials FILE` and the like.

    Raises TableError.
    """
    kind, _, file = name.partition(" ")
    if kind not in TABLES_OF_A_FILE and name not in TABLES:
        raise TableError(f"there is no table {name!r}")
    try:
        of_a_file = TABLES_OF_A_FILE.get(kind)
        return of_a_file(results, file) if of_a_file else TABLES[name](results)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise TableError(f"table {name!r} cannot be made from {results}: {error!r}") from None
