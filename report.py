"""One self-contained web page out of what the runs left: metrics, curves, samples, pictures.

    python report.py                       # writes report.html

Takes output/baseline, output/gan, visualization/ and evaluation/, or the published ones in results/
where the user has no run, and leaves out what is missing with a line that says how to make it. The
page needs no network and no other file.
"""

from pathlib import Path

from engine import cli, weights
from engine.files import write_atomically
from engine.output_folder import RunError
from reporting.page import contents_of, render

USER_ERRORS = (RunError,)
LIMIT = 15 * 10**6  # bytes


SOURCES = {  # flag: the file that says that one's own is there, and that of the published
    "baseline": ("output/baseline/config.json", "baseline/summary.json"),
    "gan": ("output/gan/config.json", "gan/summary.json"),
    "visualization": ("visualization/summary.json", "visualization/summary.json"),
    "evaluation": ("evaluation/evaluation.json", "evaluation/evaluation.json"),
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page")
    for flag, files in SOURCES.items():
        own, kept = (Path(file).parent for file in files)
        parser.add_argument(
            f"--{flag}", metavar="FOLDER", help=f"(default: {own}, without one {kept} of results/)"
        )
    return parser.parse_args(argv)


def find_folders(args):
    """{"baseline": folder, ...}: as given, else one's own where any is there, else the published.

    A run that was given is one's own: published figures of other networks never stand beside it.
    Raises RunError for a folder that was given and is not there.
    """
    wanted = {}
    for flag, (own, kept) in SOURCES.items():
        given = getattr(args, flag)
        if given is not None and not Path(given).is_dir():
            raise RunError(f"--{flag}: there is no folder {given}")
        asked_for = None if given is None else Path(given) / Path(own).name
        wanted[flag] = (asked_for, Path(own), weights.RESULTS / kept)
    files = weights.own_or_published({flag: wanted[flag] for flag in ("baseline", "gan")})
    of_own_runs = any(
        wanted[flag][0] is not None or path != wanted[flag][2] for flag, path in files.items()
    )
    # With no run of one's own, one's own pictures show the published networks.
    pictures = {}
    for flag in ("visualization", "evaluation"):
        given, own, theirs = wanted[flag]
        pictures[flag] = (given, own, None if of_own_runs else theirs)
    files |= weights.own_or_published(pictures, mixed=True)
    return {flag: file.parent for flag, file in files.items()}


def run(args):
    """Write the page; returns its path. Raises RunError for what the user can mend."""
    folders = find_folders(args)
    contents = contents_of(folders)
    page = render(contents).encode(errors="replace")
    output = Path(args.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, page)
    except OSError as error:
        raise RunError(f"cannot write {output}: {error.strerror or error}") from None
    for flag, folder in folders.items():
        print(f"{flag}: {folder}{'' if folder.is_dir() else ' (not there)'}")
    for name, value in contents["cards"]:
        print(f"{name}: {value}")
    print(f"report: {output}, {len(page) / 1e6:.1f} MB")
    if len(page) > LIMIT:
        print(f"warning: larger than {LIMIT / 1e6:.0f} MB; phones may be slow to open it")
    return output


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
