"""One self-contained web page out of what the runs left: metrics, curves, samples, pictures.

    python report.py                       # writes report.html

Takes output/baseline, output/gan, visualization/ and evaluation/, or the published ones in results/
where the user has no run, and leaves out what is missing with a line that says how to make it. The
page needs no network and no other file.
"""

from pathlib import Path

from engine import cli, weights
from engine.files import write_atomically
from reporting.page import render
from training.run_folder import RunError

USER_ERRORS = (RunError,)
LIMIT = 15 * 10**6  # bytes


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page")
    for flag, own, kept in SOURCES:
        parser.add_argument(
            f"--{flag}", metavar="FOLDER", help=f"(default: {own}, without one {kept} of results/)"
        )
    return parser.parse_args(argv)


SOURCES = (
    ("baseline", "output/baseline", "baseline"),
    ("gan", "output/gan", "gan"),
    ("visualization", "visualization", "visualization"),
    ("evaluation", "evaluation", "evaluation"),
)


def find_folders(args):
    """{"baseline": folder, ...}: as given, else one's own where any is there, else the published.

    A run that was given is one's own: published figures of other networks never stand beside it.
    Raises RunError for a folder that was given and is not there.
    """
    own = {flag: Path(folder) for flag, folder, _ in SOURCES}
    has_own = any(
        getattr(args, flag) is not None or (own[flag] / "config.json").is_file()
        for flag in ("baseline", "gan")
    )
    made = {"visualization": "summary.json", "evaluation": "evaluation.json"}
    folders = {}
    for flag, _, kept in SOURCES:
        given = getattr(args, flag)
        if given is not None and not Path(given).is_dir():
            raise RunError(f"--{flag}: there is no folder {given}")
        # With no run of one's own, one's own pictures show the published networks.
        take_own = has_own or (flag in made and (own[flag] / made[flag]).is_file())
        folders[flag] = Path(given) if given else own[flag] if take_own else weights.RESULTS / kept
    return folders


def run(args):
    """Write the page; returns its path. Raises RunError for what the user can mend."""
    folders = find_folders(args)
    page = render(folders).encode(errors="replace")
    output = Path(args.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, page)
    except OSError as error:
        raise RunError(f"cannot write {output}: {error.strerror or error}") from None
    for flag, folder in folders.items():
        print(f"{flag}: {folder}{'' if folder.is_dir() else ' (not there)'}")
    print(f"report: {output}, {len(page) / 1e6:.1f} MB")
    if len(page) > LIMIT:
        print(f"warning: larger than {LIMIT / 1e6:.0f} MB; phones may be slow to open it")
    return output


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
