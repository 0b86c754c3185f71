"""One self-contained web page with the results of the runs: metrics, curves, samples, figures.

    python report.py                       # writes report.html

The page shows output/baseline, output/gan, visualization/ and evaluation/, and for each that does
not exist the published one in results/. It needs no network and no other file.
"""

from pathlib import Path

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically, writing_to
from inside_cnn.engine import cli
from inside_cnn.engine.weights import own_or_published

FILES = {  # name in results/: the user's own file
    "baseline": Path("output/baseline/config.json"),
    "gan": Path("output/gan/config.json"),
    "visualization": Path("visualization/summary.json"),
    "evaluation": Path("evaluation/evaluation.json"),
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page")
    for name, file in FILES.items():
        default = f"(default: {file.parent}, or results/{name} if there is no {file})"
        parser.add_argument(f"--{name}", metavar="FOLDER", type=Path, help=default)
    return parser.parse_args(argv)


def find_folders(args):
    """{"baseline", "gan", "visualization", "evaluation": Path}. Raises UserError."""
    folders = {}
    for name, file in FILES.items():
        folders[name] = getattr(args, name)
        if folders[name] is None:
            folders[name] = own_or_published(file, f"{name}/{file.name}").parent
        elif not folders[name].is_dir():
            raise UserError(f"--{name}: there is no folder {folders[name]}")
    return folders


def run(args):
    """Write the page. Raises UserError."""
    from inside_cnn.reporting.page import contents_of, render  # here: for a fast --help

    page = render(contents_of(find_folders(args))).encode(errors="replace")
    output = Path(args.output)
    with writing_to(output.parent):
        write_atomically(output, page)
    print(f"report: {output}, {len(page) / 1e6:.1f} MB")


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
