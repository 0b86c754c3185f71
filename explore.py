"""A page where one can touch both networks: mislead them, and see what the generator draws.

    python explore.py

opens on this machine alone, on the runs in output/ or the published ones. Needs the packages of
requirements-explore.txt.
"""

import getpass
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import webbrowser

from data_tools import DEFAULT_DATA_DIR, DataError
from engine import cli
from engine.device import DeviceError, keep_freed_memory, pick_device, pick_precision
from engine.weights import CheckpointError
from explorer.session import load_session
from interpretability.trained_networks import TRAININGS

LOCAL = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100  # where a free one is looked for


class PageError(Exception):
    """The page cannot be opened; the message says why and what to do."""


USER_ERRORS = (DeviceError, DataError, CheckpointError, PageError)


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    group = parser.add_argument_group("networks")
    for which, (flag, run, _) in TRAININGS.items():
        group.add_argument(
            f"--{flag}",
            metavar="PATH",
            help=f"exported weights, or a run's folder, of the discriminator trained {which} "
            f"(default: output/{run}; with neither, the published ones in results/)",
        )
    group.add_argument(
        "--generator", metavar="PATH", help="the same of the generator (default: output/gan)"
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data_dir",
        default=DEFAULT_DATA_DIR,
        help="folder of CIFAR-10, whose test images are shown where they are there already",
    )
    group = parser.add_argument_group("page")
    group.add_argument(
        "--port",
        type=cli.at_least(1, high=65536),
        help=f"where the page is served (default: the first free one from {FIRST_PORT} on)",
    )
    group.add_argument(
        "--host", default=LOCAL, help="address to listen on; 0.0.0.0: anyone who can reach it"
    )
    group.add_argument("--no_browser", action="store_true", help="open no browser")
    group.add_argument(
        "--cache",
        default="output/explore",
        metavar="DIR",
        help="where the test images that excite each feature are kept, 4 MB for a network",
    )
    cli.add_device_arguments(parser, seed=False)
    return parser.parse_args(argv)


def free_port(host, port):
    """The port to serve at: the given one, else the first free one. Raises PageError."""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except (OSError, OverflowError) as error:
                reason = error
    place = f"port {port}" if port else f"any port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise PageError(f"cannot listen on {host}, {place}: {reason.strerror or reason}")


def tell(host, port):
    """How the page is reached."""
    if host == LOCAL:
        print(f"from another machine: ssh -L {port}:{LOCAL}:{port} {getpass.getuser()}@HOST")
    else:
        print(f"--host {host}: whoever can reach this machine can use the page; it has no password")


def run(args):
    """Serve the page until it is interrupted. Raises one of USER_ERRORS."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    given = {name: getattr(args, flag) for name, (flag, _, _) in TRAININGS.items()}
    session = load_session(given | {"generator": args.generator}, device, args.data_dir, precision)
    port = free_port(args.host, args.port)
    cache = tempfile.mkdtemp(prefix="explore-")  # of gradio, readable by this user alone
    os.environ["GRADIO_TEMP_DIR"] = cache
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio

        from explorer.page import CSS, build
    except ImportError as error:
        shutil.rmtree(cache)
        raise PageError(
            f"{error}: pip install -r requirements-explore.txt, or make explore"
        ) from None
    page = build(session, args.cache)
    try:
        page.queue(api_open=False)
        page.launch(
            server_name=args.host,
            server_port=port,
            share=False,
            quiet=True,
            max_file_size="10mb",
            css=CSS,
            theme=gradio.themes.Default(),
            footer_links=[],
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
        )
        print(f"the page: http://{args.host}:{port}", flush=True)
        tell(args.host, port)
        if not args.no_browser and has_a_screen():
            webbrowser.open(f"http://{args.host}:{port}")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        threading.Event().wait()
    finally:
        page.close(verbose=False)
        shutil.rmtree(cache, ignore_errors=True)


def has_a_screen():
    """Whether a browser has somewhere to open: else one in the terminal would."""
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args, USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
