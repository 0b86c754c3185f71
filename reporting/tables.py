"""Write the tables of figures in README.md, docs/, results/ and benchmarks/ out of results/.

    python -m reporting.tables            # or: make tables
    python -m reporting.tables --check    # changes nothing; names the tables that are stale

A table stands between two lines, `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import re
from pathlib import Path

from engine import cli
from engine.files import write_atomically
from reporting.markdown import TableError
from reporting.table_makers import make_table

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "results/README.md", "benchmarks/*.md")
TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


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
    try:
        found = {path: rewritten(path.read_text(), root / "results") for path in documents}
    except OSError as error:
        raise TableError(f"cannot read {error.filename}: {error.strerror}") from None
    stale = {str(path.relative_to(root)): names for path, (_, names) in found.items() if names}
    told = "; ".join(f"{document}: {', '.join(names)}" for document, names in stale.items())
    if args.check and stale:
        raise TableError(f"stale tables in {told}; run python -m reporting.tables")
    for path, (text, names) in found.items():
        try:
            if names:
                write_atomically(path, text.encode())
        except OSError as error:
            raise TableError(f"cannot write {path}: {error.strerror}") from None
    print(f"tables written anew: {told}" if stale else "all tables are as results/ has them")
    return stale


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv), (TableError,))


if __name__ == "__main__":
    raise SystemExit(main())
