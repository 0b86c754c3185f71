"""Write the tables of figures in README.md, docs/, results/ and benchmarks/ out of results/.

    python -m reporting.tables            # or: make tables
    python -m reporting.tables --check    # changes nothing; names the tables that are stale

A table stands between two lines, `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import itertools
import json
import re
import statistics
from pathlib import Path

from engine import cli
from engine.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "results/README.md", "benchmarks/*.md")
TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


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
    "baseline": ("**classifier**", "train_discriminator.py"),
    "gan": ("**critic of the GAN**", "train_gan.py"),
    "baseline_64_epochs": ("classifier, for longer", "train_discriminator.py --epochs 64"),
    "classic_32_epochs": (
        "the homework's recipe",
        "train_discriminator.py --recipe classic --epochs 32",
    ),
}


def runs(results):
    rows = [Run(results / folder).row(*RUNS[folder]) for folder in RUNS]
    headings = ["network", "test accuracy, %", "seed", "epochs", "training steps took", "on"]
    return markdown([*headings, "command"], rows)


def elsewhere(results):
    rows = [
        [r["run"], r["without_G"], r["with_G"], r["time"]]
        for r in read_lines(results / "elsewhere" / "accuracy.jsonl")
    ]
    return markdown(["run", "without G, %", "with G, %", "time"], rows)


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


def scores(results):
    table = read_json(results / "evaluation" / "evaluation.json")["scores"]
    rows = [
        [
            f"**{name}**" if name == "samples" else name,
            f"{row['frechet_distance']:.2f}",
            f"{row['kernel_distance']:.2f} ± {row['kernel_distance_std']:.2f}",
            *(f"{row[field]:.2f}" for field in ("precision", "recall", "density", "coverage")),
            f"{row['class_consistency']:.1f} %",
        ]
        for name, row in table.items()
    ]
    fields = ["Frechet", "kernel", "precision", "recall", "density", "coverage"]
    return markdown(["10,000 images each", *fields, "class consistency"], rows)


def fid(results):
    of_inception = read_json(results / "evaluation" / "evaluation.json").get("inception", {})
    rows = [
        [
            name,
            f"{row['images']:,}",
            f"{row['reference_images']:,}",
            f"{row['fid']:.2f}",
            f"{1000 * row['kid']:.2f} ± {1000 * row['kid_std']:.2f}",
        ]
        for name, row in of_inception.get("scores", {}).items()
    ]
    return markdown(["what against what", "images", "reference", "FID", "1000 x KID"], rows)


def fid_elsewhere(results):
    rows = [
        [r["model"], r["protocol"], r["fid"], r["source"]]
        for r in read_lines(results / "elsewhere" / "fid.jsonl")
    ]
    return markdown(["model", "protocol", "FID", "source"], rows)


# ------------------------------------------------------------------------------ the pictures


def networks(results):
    """{name: what visualization.py found} of both published networks."""
    return read_json(results / "visualization" / "summary.json")


def layers(results):
    found = {name: network["layers"] for name, network in networks(results).items()}
    without, with_g = found["without G"], found["with G"]
    rows = [
        [
            index + 1,
            f"{without['receptive_field'][index]} x {without['receptive_field'][index]}",
            *(f"{of['probe_accuracy'][index]:.0f}" for of in (without, with_g)),
            *(f"{of['selective_share'][index]:.0f}" for of in (without, with_g)),
            f"{without['cka']['with G'][index]:.2f}",
        ]
        for index in range(len(without["receptive_field"]))
    ]
    headings = ["layer", "a unit sees", "linear probe, %: classifier", "critic"]
    headings += ["features for one class, %: classifier", "critic", "alike (linear CKA)"]
    return markdown(headings, rows)


def robustness(results):
    studies = [network["strength_study"] for network in networks(results).values()]
    fields = ("noise_accuracy", "step_accuracy", "pgd_accuracy")
    rows = [
        [
            f"{epsilon:g}",
            *(f"{study[field][index]:.0f}" for field in fields for study in studies),
        ]
        for index, epsilon in enumerate(studies[0]["epsilons"])
    ]
    rows = [[0, *(f"{study['accuracy_clean']:.0f}" for _ in fields for study in studies)], *rows]
    headings = ["noise: classifier", "critic", "one step: classifier", "critic"]
    headings += ["20 steps: classifier", "critic"]
    return markdown(["levels of 255", *headings], rows)


def perturbation(results):
    rows = [
        [
            {"without G": "classifier", "with G": "critic"}[name],
            f"{network['perturbation']['accuracy_before']:.2f}",
            f"{network['perturbation']['accuracy_after']:.2f}",
            f"{network['perturbation']['became_alternate_label']:.1f}",
        ]
        for name, network in networks(results).items()
    ]
    return markdown(["accuracy, %", "before", "after", "named as the class aimed at"], rows)


# ------------------------------------------------------------------------------ the trials


FIGURES = {  # a trial's fields: heading, format
    "epoch": ("epoch", "d"),
    "test_accuracy": ("test accuracy, %", ".2f"),
    "frechet_distance": ("Frechet", ".0f"),
    "class_consistency": ("class consistency, %", ".1f"),
    "minutes": ("minutes", ".3g"),
}


def trials(results, file):
    """The trials of one file, those that differ by their seed alone in one row."""
    records = read_lines(results / "trials" / file)
    groups = {}
    for record in records:
        key = record["flags"], record.get("change"), record.get("epoch")
        groups.setdefault(key, []).append(record)
    commands = [[record["script"], *record["flags"].split()] for record in records]
    columns = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*commands, strict=False))
    common = [words[0] for words in columns]
    shown = [field for field in FIGURES if any(field in record for record in records)]
    noted = any("note" in record for record in records)
    rows = []
    for (flags, change, _), group in groups.items():
        own = " ".join(flags.split()[len(common) - 1 :])
        differs = [part for part in (f"`{own}`" if own else None, change) if part]
        figures = [
            ", ".join(format(r[field], FIGURES[field][1]) for r in group if field in r)
            for field in shown
        ]
        note = [next((r["note"] for r in group if "note" in r), None)] if noted else []
        seeds = ", ".join(str(record["seed"]) for record in group)
        rows.append(["; ".join(differs) or "(none)", seeds, *figures, *note])
    headings = [f"`python {' '.join(common)}` and", "seeds", *(FIGURES[f][0] for f in shown)]
    return markdown([*headings, *([""] if noted else [])], rows)


def seeds(results):
    """Every classifier of results/seeds by itself, then mean and standard deviation."""
    found = {path.name: Run(path) for path in sorted((results / "seeds").iterdir())}
    if len(found) < 2:
        raise TableError(f"{results / 'seeds'} holds fewer than two runs")
    accuracies = [run.summary["test_accuracy"] for run in found.values()]
    rows = [
        [run.settings["seed"], f"{run.summary['test_accuracy']:.2f}", in_words(run.seconds())]
        for run in found.values()
    ]
    spread = f"**{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}**"
    headings = ["seed", "test accuracy, %", "training steps took"]
    return markdown(headings, [*rows, ["mean and standard deviation", spread, None]])


# ------------------------------------------------------------------------------ the documents


TABLES = {
    "runs": runs,
    "seeds": seeds,
    "elsewhere": elsewhere,
    "scores": scores,
    "fid": fid,
    "fid elsewhere": fid_elsewhere,
    "layers": layers,
    "robustness": robustness,
    "perturbation": perturbation,
    "gan log": gan_log,
}


def make_table(name, results):
    """The Markdown of one table by its name; `trials FILE` are those of results/trials/FILE.

    Raises TableError.
    """
    kind, _, file = name.partition(" ")
    if kind == "trials":
        return trials(results, f"{file}.jsonl")
    if name not in TABLES:
        raise TableError(f"there is no table {name!r}")
    try:
        return TABLES[name](results)
    except (KeyError, IndexError, TypeError) as error:
        raise TableError(f"table {name!r}: {results} lacks {error}") from None


def rewritten(text, results):
    """(the text with every table made anew, the names of those that were stale)."""
    stale = []

    def replaced(match):
        start, name, before, end = match.groups()
        table = make_table(name, results) + "\n"
        if table != before:
            stale.append(name)
        return start + table + end

    return TABLE.sub(replaced, text), stale


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing, fail where a table is stale"
    )
    return parser.parse_args(argv)


def run(args, root=ROOT):
    """Write the tables of all documents, or check them; returns {document: stale tables}.

    Raises TableError.
    """
    documents = sorted(path for pattern in DOCUMENTS for path in root.glob(pattern))
    found = {path: rewritten(path.read_text(), root / "results") for path in documents}
    stale = {str(path.relative_to(root)): names for path, (_, names) in found.items() if names}
    told = "; ".join(f"{document}: {', '.join(names)}" for document, names in stale.items())
    if args.check and stale:
        raise TableError(f"stale tables in {told}; run python -m reporting.tables")
    for path, (text, names) in found.items():
        if names:
            write_atomically(path, text.encode())
    print(f"tables written anew: {told}" if stale else "all tables are as results/ has them")
    return stale


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv), (TableError,))


if __name__ == "__main__":
    raise SystemExit(main())
