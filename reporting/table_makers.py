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
)
RUNS = (
    *MAIN_RUNS,
    Runs(
        "classifier, three seeds",
        "python train_discriminator.py --epochs 8",
        {f"controls/seed_{seed}": seed for seed in range(3)},
    ),
    Runs(
        "without cutout, smoothing, average",
        "python train_discriminator.py --epochs 8 --hole 0 --label_smoothing 0 --ema_decay 0",
        {"controls/as_critic": 0},
    ),
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
    return runs(results, MAIN_RUNS)


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


NAMES = {"without G": "classifier", "with G": "critic"}  # in visualization/summary.json


def inside(results, section):
    """{network: what visualization.py measured in this section}."""
    summary = read_json(results / "visualization" / "summary.json")
    return {name: summary[name][section] for name in NAMES}


def layers(results):
    """The measures of each layer, one row for each network, and their similarity."""
    measured = inside(results, "layers")
    measures = {
        "probe_accuracy": "linear probe",
        "selective_share": "class-selective features",
        "fires_below_1_percent": "features that fire on < 1 % of images",
        "fires_below_10_percent": "features that fire on < 10 % of images",
    }
    rows = [["receptive field, pixels", *measured["without G"]["receptive_field"]]]
    for field, title in measures.items():
        for name, of in measured.items():
            rows.append([f"{title}, %: {NAMES[name]}", *(f"{value:.0f}" for value in of[field])])
    similarities = {"cka": "CKA", "cka_standardized": "CKA, features standardized"}
    for field, title in similarities.items():
        rows.append([title, *(f"{v:.2f}" for v in measured["without G"][field]["with G"])])
    return markdown(["layer", *range(1, len(rows[0]))], rows)


ATTACKS = {"noise": "noise", "step": "one step", "pgd": "PGD"}


def robustness(results):
    """Accuracy of each attack at each epsilon with its interval; how many images, what attack."""
    studies = inside(results, "strength_study")
    rows = []
    for attack, title in ATTACKS.items():
        for name, of in studies.items():
            shares = [of["accuracy_clean"], *of[f"{attack}_accuracy"]]
            intervals = [of["interval_clean"], *of[f"{attack}_interval"]]
            cells = zip(shares, intervals, strict=True)
            cells = [f"{share:.0f} ({low:.0f} to {high:.0f})" for share, (low, high) in cells]
            rows.append([title, NAMES[name], *cells])
    of = studies["without G"]
    epsilons = (f"{epsilon:g}/255" for epsilon in of["epsilons"])
    table = markdown(["", "accuracy, % at epsilon:", "0", *epsilons], rows)
    return f"The first {of['images']:,} test images; PGD of {of['pgd']}:\n\n{table}"


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


def frequency(results):
    """The gradient's energy and the accuracy under noise in each band, and the difference."""
    measured = inside(results, "frequency")
    of = measured["without G"]
    bands = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(of["bands"])]
    energies = {"white noise": of["white_energy"]}
    energies |= {NAMES[name]: m["gradient_energy"] for name, m in measured.items()}
    rows = [
        [f"gradient energy, %: {name}", "", *(f"{share:.0f}" for share in shares)]
        for name, shares in energies.items()
    ]
    for name, m in measured.items():
        shares, intervals = [m["accuracy"]], [m["interval"]]
        shares, intervals = (
            shares + m["accuracy_under_noise"],
            intervals + m["interval_under_noise"],
        )
        cells = zip(shares, intervals, strict=True)
        cells = (f"{share:.0f} ({low:.0f} to {high:.0f})" for share, (low, high) in cells)
        rows.append([f"accuracy under noise, %: {NAMES[name]}", *cells])
    cells = (
        f"{share:+.0f} ({low:+.0f} to {high:+.0f})"
        for share, low, high in of["differences"]["with G"].values()
    )
    rows.append(["lost more by the classifier, points", "", *cells])
    return markdown(["cycles per pixel", "without noise", *bands], rows)


def critic_scores(results):
    """The critic's score of each set, and how often a test image scores higher."""
    sets = read_json(results / "visualization" / "summary.json")["with G"]["critic_score"]
    rows = [
        [name, f"{of['images']:,}", f"{of['mean']:.2f}", f"{100 * of['auc']:.1f}"]
        for name, of in sets.items()
    ]
    return markdown(["images", "number", "mean score", "a test image scores higher, %"], rows)


def comparison(results):
    """Calibration of each network, and what each predicts of images made for each."""
    calibrations, transfers = inside(results, "calibration"), inside(results, "transfer")
    rows = []
    for name, of in calibrations.items():
        own = transfers[name]
        cells = [f"{of['expected_calibration_error']:.1f}", f"{of['mean_confidence']:.1f}"]
        for source in NAMES:
            predicted = transfers[source]["class_images"][name] / 100 * own["classes"]
            cells.append(f"{predicted:.0f} of {own['classes']}")
        cells += [f"{own['baselines'][key]:.0f}" for key in ("test images", "noise")]
        cells += [f"{transfers[source]['adversarial_images'][name]:.0f}" for source in NAMES]
        rows.append([NAMES[name], *cells])
    headings = ["calibration error, %", "mean confidence, %"]
    headings += [f"class images of the {NAMES[name]}" for name in NAMES]
    headings += [f"{key}, %" for key in ("test images", "under noise")]
    headings += [f"adversarial images of the {NAMES[name]}, %" for name in NAMES]
    return markdown(["network", *headings], rows)


# ------------------------------------------------------------------------------ by name


TABLES = {
    "runs": runs,
    "main runs": main_runs,
    "scores": scores,
    "fid": fid,
    "memorization": memorization,
    "layers": layers,
    "frequency": frequency,
    "critic scores": critic_scores,
    "comparison": comparison,
    "robustness": robustness,
    "perturbation": perturbation,
}


def make_table(name, results):
    """The Markdown of one table by its name: one of TABLES, or `lines FILE` and the like.

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
