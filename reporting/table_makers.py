"""Every table of figures by its name, as Markdown, out of results/."""

import json
import re


class TableError(Exception):
    """A table that cannot be made, or is stale; the message says why."""


# ------------------------------------------------------------------------------ reading, writing


def read_json(path):
    """What a JSON file holds. Raises TableError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {error}") from None


def read_lines(path):
    """The records of a file of JSON lines. Raises TableError."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {error}") from None


def markdown(headings, rows):
    """A table in GitHub's Markdown; what is None is left empty."""
    lines = []
    for row in (headings, ["---"] * len(headings), *rows):
        if len(row) != len(headings):
            raise ValueError(f"{len(row)} cells under {len(headings)} headings")
        cells = ("" if cell is None else str(cell) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def in_words(seconds):
    if seconds < 90 * 60:
        return f"{seconds / 60:.3g} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


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

    def row(self, what, command):
        accuracy = f"{self.summary['test_accuracy']:.2f}"
        shown = [self.settings["seed"], self.settings["epochs"], in_words(self.seconds())]
        return [what, accuracy, *shown, self.device, f"`{command}`"]


# Folder in results/, what it is, the command that made it. A test compares command and settings.
RUNS = {
    "baseline": ("**classifier**", "python train_discriminator.py"),
    "gan": ("**critic of the GAN**", "python train_gan.py"),
    "baseline_64_epochs": ("classifier, for longer", "python train_discriminator.py --epochs 64"),
    "classic_32_epochs": (
        "the homework's recipe",
        "python train_discriminator.py --recipe classic --epochs 32",
    ),
}
PUBLISHED = ("baseline", "gan")  # those whose weights are in results/


def runs(results, folders=RUNS):
    rows = [Run(results / folder).row(*RUNS[folder]) for folder in folders]
    headings = ["network", "test accuracy, %", "seed", "epochs", "training took", "on"]
    return markdown([*headings, "command"], rows)


def published(results):
    return runs(results, PUBLISHED)


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
    """Of the published generator, each comparison with its protocol."""
    rows = []
    for name, row in evaluation(results)["inception"]["scores"].items():
        kid, spread = 1000 * row["kid"], 1000 * row["kid_std"]
        sizes = [f"{row['images']:,}", f"{row['reference_images']:,}"]
        rows.append([name, *sizes, f"{row['fid']:.2f}", f"{kid:.2f} ± {spread:.2f}"])
    return markdown(["what against what", "images", "reference", "FID", "1000 x KID"], rows)


def memorization(results):
    """Distances of images to the nearest training image, in the judge's features."""
    found = evaluation(results)["nearest_training_images"]
    percentiles = (1, 10, 50)
    rows = [
        [name.replace("_", " "), *(f"{found[name][f'percentile_{p}']:.2f}" for p in percentiles)]
        for name in ("samples", "test_images")
    ]
    return markdown(["distance, percentile", *percentiles], rows)


# ------------------------------------------------------------------------------ the pictures


def pair(results):
    """[what visualization.py found of the classifier, of the critic]: both published networks."""
    summary = read_json(results / "visualization" / "summary.json")
    return [summary["without G"], summary["with G"]]


def layers(results):
    classifier, critic = found = [network["layers"] for network in pair(results)]
    rows = [
        [
            index + 1,
            f"{sees} x {sees}",
            *(f"{of['probe_accuracy'][index]:.0f}" for of in found),
            *(f"{of['selective_share'][index]:.0f}" for of in found),
            f"{critic['cka']['without G'][index]:.2f}",
        ]
        for index, sees in enumerate(classifier["receptive_field"])
    ]
    headings = ["layer", "unit sees", "probe, %: classifier", "critic"]
    headings += ["for one class, %: classifier", "critic", "CKA"]
    return markdown(headings, rows)


def robustness(results):
    studies = [network["strength_study"] for network in pair(results)]
    fields = ("noise_accuracy", "step_accuracy", "pgd_accuracy")
    rows = [
        [f"{epsilon:g}", *(f"{s[field][index]:.0f}" for field in fields for s in studies)]
        for index, epsilon in enumerate(studies[0]["epsilons"])
    ]
    rows = [[0, *(f"{study['accuracy_clean']:.0f}" for _ in fields for study in studies)], *rows]
    headings = ["noise: classifier", "critic", "step: classifier", "critic"]
    headings += ["20 steps: classifier", "critic"]
    return markdown(["levels", *headings], rows)


def perturbation(results):
    names = ("classifier", "critic")
    rows = [
        [
            name,
            f"{network['perturbation']['accuracy_before']:.2f}",
            f"{network['perturbation']['accuracy_after']:.2f}",
            f"{network['perturbation']['became_alternate_label']:.1f}",
        ]
        for name, network in zip(names, pair(results), strict=True)
    ]
    return markdown(["accuracy, %", "before", "after", "named as the class aimed at"], rows)


# ------------------------------------------------------------------------------ the trials


FIGURES = {  # a trial's fields: heading, format
    "epoch": ("epoch", "d"),
    "test_accuracy": ("test accuracy, %", ".2f"),
    "frechet_distance": ("Frechet", ".0f"),
    "class_consistency": ("class consistency, %", ".1f"),
    "class_accuracy_real": ("class head on training images, %", ".1f"),
    "minutes": ("minutes", ".3g"),
}


def flags_of(trial):
    """A trial's flags, each with its values: ["--lr 1", "--max_features 2 4"]."""
    return re.findall(r"--.*?(?= --|$)", trial["flags"])


def trials(results, file):
    """The trials of one file, those that differ by their seed alone in one row."""
    records = read_lines(results / "trials" / f"{file}.jsonl")
    groups = {}
    for record in records:
        key = record["flags"], record.get("change"), record.get("epoch")
        groups.setdefault(key, []).append(record)
    common = [f for f in flags_of(records[0]) if all(f in flags_of(r) for r in records)]
    shown = [field for field in FIGURES if any(field in record for record in records)]
    noted = any("note" in record for record in records)
    differ = len({key[:2] for key in groups}) > 1
    rows = []
    for group in groups.values():
        own = " ".join(flag for flag in flags_of(group[0]) if flag not in common)
        what = [part for part in (f"`{own}`" if own else None, group[0].get("change")) if part]
        figures = [
            ", ".join(format(r[field], FIGURES[field][1]) for r in group if field in r)
            for field in shown
        ]
        note = [next((r["note"] for r in group if "note" in r), None)] if noted else []
        seeds = ", ".join(str(record["seed"]) for record in group)
        first = ["; ".join(what) or "(nothing)"] if differ else []
        rows.append([*first, seeds, *figures, *note])
    script = records[0]["script"]
    told = f"`python {' '.join([script, *common])}`" + (" and, in a row:" if differ else ":")
    headings = ["flags"] if differ else []
    headings += ["seeds", *(FIGURES[field][0] for field in shown), *([""] if noted else [])]
    return f"{told}\n\n{markdown(headings, rows)}"


# ------------------------------------------------------------------------------ other files


SOURCE = ("transcribed", "note", "commit", "device", "command")  # where a figure is from


def lines(results, file):
    """The records of a file as they stand, a column for each field but the SOURCE."""
    records = read_lines(results / f"{file}.jsonl")
    fields = [field for field in records[0] if field not in SOURCE]
    return markdown(fields, [[record[field] for field in fields] for record in records])


def speed(results, file):
    """What `benchmarks/throughput.py --json` wrote."""
    table = read_json(results / "speed" / f"{file}.json")
    rows = [
        [
            part.replace("_", " "),
            *(f"{row[f'{side}_images_per_s']:,.0f}" for side in ("ours", "plain")),
            f"{row['ratio']:.2g}",
            f"{row['lowest_ratio']:.2g}, {row['highest_ratio']:.2g}",
            f"{row['flops_per_image'] / 1e9:.2g}",
            row["share_of_limit"] and f"{100 * row['share_of_limit']:.0f} %",
        ]
        for part, row in table.items()
        if part != "machine"
    ]
    headings = ["part", "ours", "plain", "ratio", "lowest, highest", "GFLOP", "of limit"]
    machine = table["machine"]
    limit = machine[f"{machine['precision']}_matmul_flops"] / 1e12
    told = [f"{machine['device']}, torch {machine['torch']}"]
    told.append(f"the limit {limit:.3g} TFLOP/s in {machine['precision']}")
    if "ours_peak_memory_bytes" in machine:
        memory = (machine[f"{side}_peak_memory_bytes"] / 1e9 for side in ("ours", "plain"))
        told.append("peak memory {:.1f} GB, plain {:.1f} GB".format(*memory))
    return f"{markdown(headings, rows)}\n\n{'; '.join(told)}."


# ------------------------------------------------------------------------------ by name


TABLES = {
    "runs": runs,
    "published": published,
    "scores": scores,
    "fid": fid,
    "memorization": memorization,
    "layers": layers,
    "robustness": robustness,
    "perturbation": perturbation,
    "gan log": gan_log,
}
TABLES_OF_A_FILE = {"trials": trials, "lines": lines, "speed": speed}


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
