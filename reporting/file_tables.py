"""The tables of one file of results/ each: measured speed, the figures of others."""

from reporting.markdown import markdown, read_json, read_lines

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


TABLES_OF_A_FILE = {"lines": lines, "speed": speed}
