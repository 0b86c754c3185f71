"""Results read, tables written: what every table of figures stands on."""

import json


class TableError(Exception):
    """A table that cannot be made, or is stale; the message says why."""


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
