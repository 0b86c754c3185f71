"""A page where one can touch both networks: mislead them, look inside, switch parts of them off.

    python explore.py

opens on this machine alone, on the runs in output/ or the published ones. Needs the packages of
requirements-explore.txt.
"""

import contextlib
import getpass
import os
import signal
import socket
import sys
import tempfile
import threading
import webbrowser

from inside_cnn.core.device import keep_freed_memory, pick_device, pick_precision
from inside_cnn.core.errors import UserError
from inside_cnn.data.pictures import MAX_UPLOAD_BYTES
from inside_cnn.engine import cli
from inside_cnn.explorer import guard
from inside_cnn.explorer.session import load_session
from inside_cnn.interpretability.network import TRAININGS

LOCAL = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100  # where a free one is looked for


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("networks")
    for which, (flag, run, _) in TRAININGS.items():
        group.add_argument(
            f"--{flag}",
            metavar="PATH",
            help=f"exported weights, or a run's folder, of the discriminator trained {which} "
            f"(default: output/{run}, else results/{run})",
        )
    group.add_argument(
        "--generator",
        metavar="PATH",
        help="the same of the generator (default: output/gan, else results/gan)",
    )
    cli.add_data_arguments(parser, limits=())
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
        help="where the test images that excite each feature are kept",
    )
    cli.add_device_arguments(parser, seed=False)
    return parser.parse_args(argv)


def free_port(host, port):
    """The port to serve at: the given one, else the first free one. Raises UserError."""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except (OSError, OverflowError) as error:
                reason = error
    place = f"port {port}" if port else f"any port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise UserError(f"cannot listen on {host}, {place}: {reason.strerror or reason}")


def tell(host, port):
    """Where the page is, and who can reach it."""
    place = f"[{host}]" if ":" in host else host
    print(f"the page: http://{place}:{port}", flush=True)
    if host in guard.LOCAL:
        print(f"from another machine: ssh -L {port}:{place}:{port} {getpass.getuser()}@HOST")
    else:
        print(f"--host {host}: whoever can reach this machine can use the page; it has no password")


def import_page():
    """(gradio, the module explorer.page). Raises UserError."""
    try:
        import gradio

        from inside_cnn.explorer import page
    except ImportError as error:
        raise UserError(
            f"{error}: pip install -r requirements-explore.txt, or make explore"
        ) from None
    return gradio, page


def launch(page, theme, css, host, port):
    """Serve the page in a thread of its own. Raises UserError."""
    proxies = {os.environ.get(name) for name in ("no_proxy", "NO_PROXY")} - {None, ""}
    for name in ("no_proxy", "NO_PROXY"):  # gradio asks its own page whether it is up
        os.environ[name] = ",".join(sorted({*guard.LOCAL, host} | proxies))
    page.queue(api_open=False, max_size=100)
    try:
        page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=False,
            quiet=True,
            max_file_size=MAX_UPLOAD_BYTES,
            app_kwargs={"middleware": [(guard.Guard, (), {"host": host})]},
            css=css,
            theme=theme,
            footer_links=[],
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot serve the page on {host}, port {port}: {error}") from None


@contextlib.contextmanager
def ended_by_signals():
    """SIGTERM and a closed terminal end what is inside as an exception does: files are removed."""

    def leave(number, _):
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(args):
    """Serve the page until it is interrupted. Raises UserError."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    given = {name: getattr(args, flag) for name, (flag, _, _) in TRAININGS.items()}
    given |= {"generator": args.generator}
    session = load_session(given, device, args.data_dir, precision, args.dataset)
    port = free_port(args.host, args.port)
    with ended_by_signals(), private_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        gradio, page = import_page()
        blocks = page.build(session, args.cache)
        try:
            launch(blocks, gradio.themes.Default(), page.CSS, args.host, port)
            tell(args.host, port)
            if not args.no_browser and has_a_screen():
                webbrowser.open(f"http://{args.host}:{port}")
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def private_folder():
    """For uploads and what else gradio keeps: readable by this user alone, removed at the end."""
    return tempfile.TemporaryDirectory(prefix="explore-", ignore_cleanup_errors=True)


def has_a_screen():
    """Whether a browser has somewhere to open: else one in the terminal would."""
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(run, args)


if __name__ == "__main__":
    sys.exit(main())
