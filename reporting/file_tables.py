"""The tables of one file of results/ each: trials, measured speed, the figures of others."""

import re
from pathlib import Path

from reporting.markdown import TableError, markdown, read_json, read_lines

FIGURES = {  # a trial's fields: heading, format
    "epoch": ("epoch", "d"),
    "test_accuracy": ("test accuracy, %", ".2f"),
    "frechet_distance": ("Frechet", ".0f"),
    "class_consistency": ("class consistency, %", ".1f"),
    "class_accuracy_real": ("class head on training images, %", ".1f"),
    "minutes": ("minutes", ".3g"),
}


def flags_of(text):
    """Flags, each with its values: ["--lr 1", "--max_features 2 4"]."""
    return re.findall(r"--.*?(?= --|$)", text)


def trials(results, file):
    """The trials of one file, those that differ by their seed alone in one row."""
    records = read_lines(results / "trials" / f"{file}.jsonl")
    groups = {}
    for record in records:
        key = record["flags"], record.get("change"), record.get("epoch")
        groups.setdefault(key, []).append(record)
    of_each = [flags_of(record["flags"]) for record in records]
    common = [flag for flag in of_each[0] if all(flag in flags for flags in of_each)]
    shown = [field for field in FIGURES if any(field in record for record in records)]
    noted = any("note" in record for record in records)
    differ = len({key[:2] for key in groups}) > 1
    rows = []
    for group in groups.values():
        own = " ".join(flag for flag in flags_of(group[0]["flags"]) if flag not in common)
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
    more = " with the flags of a row" if differ else ""
    told = f"`python {' '.join([script, *common])}`{more}:"
    headings = ["flags"] if differ else []
    headings += ["seeds", *(FIGURES[field][0] for field in shown), *([""] if noted else [])]
    return f"{told}\n\n{markdown(headings, rows)}"


def settings_of(path):
    """{(flags, variant, share, budget): {seed: {step: line}}} of trials, of a seed its last one.

    Raises TableError where there are none, or the runs of a setting had different numbers of steps.
    """
    groups = {}
    for record in read_lines(Path(path)):
        try:
            key = tuple(record[field] for field in ("flags", "variant", "share", "budget_images"))
            points = groups.setdefault(key, {}).setdefault(record["seed"], {})
            if record["step"] <= max(points, default=0):
                points.clear()  # it was run again
            points[record["step"]] = record
        except (KeyError, TypeError):
            raise TableError(f"{path} has lines that time_to_quality.py did not write") from None
    if not groups:
        raise TableError(f"{path} has no trials")
    for (flags, variant, *_), seeds in groups.items():
        lengths = {point["steps"] for of_step in seeds.values() for point in of_step.values()}
        if len(lengths) > 1:
            raise TableError(
                f"{path}: {flags} {variant} has runs of {sorted(lengths)} steps; give --steps to "
                "seeds that are added"
            )
    return groups


def quality(results, file):
    """What settings come to in the same CPU time, by `benchmarks/time_to_quality.py`."""
    groups = settings_of(results / "trials" / f"{file}.jsonl")
    widths = {f for key in groups for f in flags_of(key[0]) if f.startswith("--width ")}
    shown = ("test_accuracy", "frechet_distance", "class_consistency")
    rows = []
    for (flags, variant, share, _), seeds in groups.items():
        points = [seeds[seed][max(seeds[seed])] for seed in sorted(seeds)]
        own = " ".join(f for f in flags_of(flags) if f not in widths or len(widths) > 1)
        what = [f"`{own}`" if own else None, None if variant == "none" else variant]
        figures = []
        for field in shown:
            values = [format(point[field], FIGURES[field][1]) for point in points]
            mean = sum(point[field] for point in points) / len(points)
            figures.append(f"**{format(mean, FIGURES[field][1])}** ({', '.join(values)})")
        names = ", ".join(map(str, sorted(seeds)))
        images = f"{points[0]['images'] / 1000:.0f}"
        name = "; ".join(filter(None, what)) or "the recipe"
        rows.append([name, f"{share:g}", names, images, *figures])
    headings = ["setting", "CPU time", "seeds", "images, thousands"]
    headings += [FIGURES[field][0] for field in shown]
    return markdown(headings, rows)


# Where a figure is from.
SOURCE = {
    *("transcribed", "note", "commit", "device", "command"),
    *("generator_sha256", "dataset", "samples", "seed"),
}


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


TABLES_OF_A_FILE = {"trials": trials, "lines": lines, "speed": speed, "quality": quality}
