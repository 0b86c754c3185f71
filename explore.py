"""Write one HTML page in which one can explore both networks, and open it in the browser.

    python explore.py

uses the runs in output/, or the published ones. The page computes in the browser: it needs no
server and no network, and can be copied and hosted anywhere.
"""

import os
import sys
import webbrowser
from pathlib import Path

from inside_cnn.core.files import writing_to
from inside_cnn.engine import cli
from inside_cnn.explorer.page import contents_of, write_page
from inside_cnn.interpretability.network import TRAININGS


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("networks")
    defaults = {flag: f"output/{run}, else results/{run}" for flag, run, _ in TRAININGS.values()}
    defaults["generator"] = "the one beside --discriminator_with_G"
    for flag, default in defaults.items():
        text = f"exported weights, or a run's folder, of the {flag.replace('_', ' ')}"
        group.add_argument(f"--{flag}", metavar="PATH", help=f"{text} (default: {default})")
    cli.add_data_arguments(parser, limits=())
    group = parser.add_argument_group("page")
    group.add_argument("--output", default="output/explore.html", metavar="FILE", help="the page")
    group.add_argument("--no_browser", action="store_true", help="do not open a browser")
    return parser.parse_args(argv)


def run(args):
    """Write the page and open it. Raises UserError."""
    given = {name: getattr(args, flag) for name, (flag, *_) in TRAININGS.items()}
    given["generator"] = args.generator
    contents = contents_of(given, args.data_dir, args.dataset)
    path = Path(args.output).absolute()
    with writing_to(path.parent):
        write_page(contents, path)
    print(f"{args.output}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    # Without a screen, a browser in the terminal would open.
    has_display = any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not args.no_browser and (has_display or sys.platform == "darwin"):
        webbrowser.open(path.as_uri())


def main(argv=None):
    return cli.exit_code_of(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
