"""Write the tables of README.md, docs/, results/ and benchmarks/ from the files in results/.

    python -m inside_cnn.reporting.tables            # or: make tables

A table is between the lines `<!-- table: KIND ARGUMENTS -->` and `<!-- end of table -->`. KIND is
one of the functions in KINDS.
"""

import json
import re
import shlex
import statistics
from pathlib import Path

from inside_cnn.core.files import is_number, read_json, write_atomically
from inside_cnn.reporting import ladder
from inside_cnn.reporting.ladder import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/*.md", "results/README.md", "benchmarks/*.md")
TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
SUMMARY = "visualization/summary.json"
# Fields of a JSON line that describe the source of its numbers.
SOURCE = {"transcribed", "note", "commit", "device", "command"}
TITLES = PUBLISHED | {
    "cka": "CKA",
    "class_auc": "mean AUC of the best class",
    "fid": "FID",
    "fid_against_test_images": "FID, test images",
    "kid": "KID",
    "kid_std": "KID std",
    "frechet_distance": "Frechet distance",
    "cka_standardized": "CKA, standardized",
    "fires_below_1_percent": "share firing on < 1 % of images",
    "fires_below_10_percent": "share firing on < 10 % of images",
    "auc": "share of test images with a higher score",
    "bands": "cycles per pixel, up to",
    "epsilons": "epsilon, in 1/255",
}
RUNS = {  # folders in results/: title, flags of the script
    "baseline": ("**classifier**", ""),
    "gan": ("**critic of the GAN**", ""),
    "ladder/relativistic_0": (
        "small critic, another loss",
        "--recipe relativistic --width 64 --epochs 16 --ema_decay 0.9995 --evaluate_every 8",
    ),
    "controls/seed_*": ("classifier, three seeds", "--epochs 8"),
    "controls/as_critic": (
        "without cutout, smoothing, average",
        "--epochs 8 --cutout 0 --label_smoothing 0 --ema_decay 0",
    ),
    "baseline_64_epochs": ("classifier, for longer", "--epochs 64"),
    "classic_32_epochs": (
        "the homework's recipe, 32 of 100 epochs",
        "--recipe classic --epochs 32",
    ),
}


def read_lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def markdown(headings, rows):
    """A table in GitHub's Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def title_of(field):
    return TITLES.get(field, field.replace("_", " "))


def short(value, digits=4):
    """Text of a number or an interval, with at most five decimals; "" for None."""
    if isinstance(value, list):
        return " to ".join(short(end, digits) for end in value)
    if isinstance(value, int):
        return f"{value:,}"
    if is_number(value):
        return f"{float(f'{round(value, 5):.{digits}g}') + 0.0:,g}"  # + 0.0: never "-0"
    return value or ""


def columns(dicts):
    """A table with a row for each dict and a column for each field, without nested dicts."""
    fields = dict.fromkeys(f for row in dicts for f, v in row.items() if not isinstance(v, dict))
    cells = [[short(row.get(field)) for field in fields] for row in dicts]
    return markdown([title_of(field) for field in fields], cells)


# ------------------------------------------------------------------------------ the kinds


def lines(results, file):
    """A file of JSON lines, without the fields of SOURCE."""
    records = read_lines(results / f"{file}.jsonl")
    return columns([{f: v for f, v in r.items() if f not in SOURCE} for r in records])


def rows(results, file, path):
    """A row for each dict in a JSON file; path: keys separated by "/", one of them "*"."""
    before, _, after = path.partition("*")
    dicts = ladder.value_at(read_json(results / file), before) or {}
    dicts.pop("machine", None)  # of benchmarks/throughput.py
    cells = {title_of(name): ladder.value_at(row, after) or {} for name, row in dicts.items()}
    return columns([{"": name, **row} for name, row in cells.items()])


def series(results, section, head, *fields):
    """A row for each field and network of the lists in a section of visualization/summary.json.

    head: the list of column headings; of the edges of bands the upper ones.
    """
    summary = read_json(results / SUMMARY)
    table = []
    for field in fields:
        for network, name in PUBLISHED.items():
            metrics = summary[network][section]
            values = metrics[field]
            if isinstance(values, dict):  # similarity to each other network
                values = next(values[other] for other in PUBLISHED if other in values)
            cells = [short(value, 2) for value in values]
            intervals = "accuracy" in field and metrics.get(field.replace("accuracy", "interval"))
            if intervals:
                cells = [f"{c} ({short(i, 2)})" for c, i in zip(cells, intervals, strict=True)]
            if table and table[-1] == [title_of(field), "classifier", *cells]:
                table[-1][1] = "both"
            else:
                table.append([title_of(field), name, *cells])
    heads = [short(value) for value in summary["without G"][section][head][2 - len(table[0]) :]]
    return markdown([title_of(head), "", *heads], table)


def runs(results, *patterns):
    """Published runs; for several seeds the mean accuracy, standard deviation and mean time."""
    table = []
    for pattern in patterns or RUNS:
        title, flags = RUNS[pattern]
        folders = sorted(results.glob(pattern))
        configs = [read_json(folder / "config.json") for folder in folders]
        accuracies = [read_json(folder / "summary.json")["test_accuracy"] for folder in folders]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(folders) > 1 else ""
        settings = configs[0]["settings"]
        row = {
            "network": title,
            "test accuracy, %": f"{statistics.mean(accuracies):.2f}{spread}",
            "seed": ", ".join(str(config["settings"]["seed"]) for config in configs),
            "epochs": settings["epochs"],
            "minutes": f"{statistics.mean(map(training_minutes, folders)):.3g}",
            "on": configs[0]["device"].replace(", 1 threads", ", 1 thread"),
            "command": f"`{' '.join(['python', settings['script'], *flags.split()])}`",
        }
        table.append(row)
    return columns(table)


def training_minutes(folder):
    """Duration of a run's training steps in minutes, without evaluation and figures."""
    batch_size = read_json(folder / "config.json")["settings"]["batch_size"]
    seconds = step = 0
    for record in read_lines(folder / "metrics.jsonl"):
        seconds += (record["step"] - step) * batch_size / record["images_per_second"]
        step = record["step"]
    return seconds / 60


def control_networks(results, name):
    """One of the tables of reporting/ladder.py."""
    return markdown(*getattr(ladder, name)(results))


KINDS = {kind.__name__: kind for kind in (lines, rows, series, runs, control_networks)}


def update(root, check=False):
    """Write the tables of all documents unless `check`; returns the stale ones as text."""
    stale = []
    for document in sorted(path for pattern in DOCUMENTS for path in root.glob(pattern)):
        text = document.read_text(encoding="utf-8")
        for start, name, before, end in TABLE.findall(text):
            kind, *arguments = shlex.split(name)
            table = KINDS[kind](root / "results", *arguments) + "\n"
            if table != before:
                stale.append(f"{document.relative_to(root)}: {name}")
                text = text.replace(start + before + end, start + table + end)
        if not check:
            write_atomically(document, text.encode())
    return stale


if __name__ == "__main__":
    print("updated:", "; ".join(update(ROOT)) or "no table was stale")
