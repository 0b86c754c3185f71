"""One self-contained web page with the results of the runs: metrics, curves, samples, figures.

    python report.py                       # writes report.html

The page shows output/baseline, output/gan, visualization/ and evaluation/. Without a run in output/
it shows the published results. It needs no network and no other file.
"""

from pathlib import Path

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.core.output_folder import writing_to
from inside_cnn.engine import cli, weights
from inside_cnn.reporting.page import contents_of, render

FOLDERS = {
    "baseline": Path("output/baseline"),
    "gan": Path("output/gan"),
    "visualization": Path("visualization"),
    "evaluation": Path("evaluation"),
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page")
    for name, folder in FOLDERS.items():
        text = f"(default: {folder}, or results/{name} if there is no run in output/)"
        parser.add_argument(f"--{name}", metavar="FOLDER", help=text)
    return parser.parse_args(argv)


def find_folders(args):
    """{"baseline", "gan", "visualization", "evaluation": Path}.

    Published results stand in only if the user has no run: runs of different origin never stand
    side by side. Raises UserError for a missing folder that the user named.
    """
    given = {name: Path(path) for name in FOLDERS if (path := getattr(args, name)) is not None}
    for name, folder in given.items():
        if not folder.is_dir():
            raise UserError(f"--{name}: there is no folder {folder}")
    own = FOLDERS | given
    present = {name: own[name] for name in own if name in given or any(own[name].glob("*.json"))}
    if present.keys() & {"baseline", "gan"}:
        return own
    # The user's own figures and scores may be of the published networks.
    return {name: weights.RESULTS / name for name in FOLDERS} | present


def run(args):
    """Write the page. Raises UserError."""
    folders = find_folders(args)
    page = render(contents_of(folders)).encode(errors="replace")
    output = Path(args.output)
    with writing_to(output.parent):
        write_atomically(output, page)
    for name, folder in folders.items():
        print(f"{name}: {folder}{'' if folder.is_dir() else ' (missing)'}")
    print(f"report: {output}, {len(page) / 1e6:.1f} MB")


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
