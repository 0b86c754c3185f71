"""How long a visitor of explore.py's page waits: what each move computes, and the start.

    python benchmarks/page_speed.py
    python benchmarks/page_speed.py --json results/speed/page.jsonl

On the published networks, without a browser; the median of several moves.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import gradio
import torch

from data_tools import DEFAULT_DATA_DIR
from engine import cli
from engine.device import describe_device, keep_freed_memory, pick_device, pick_precision
from explorer.drawing_tab import DrawingTab
from explorer.maximise_tab import Choice, MaximiseTab
from explorer.mislead_tab import MisleadTab
from explorer.session import load_session
from explorer.switch_off_tab import SwitchOffTab

ROOT = Path(__file__).resolve().parent.parent
GIVEN = {"without G": "results/baseline", "with G": "results/gan", "generator": "results/gan"}
GOALS = {  # seconds
    "a new epsilon, one step": 0.3,
    "a new epsilon, 20 steps": 2.0,
    "one drawn image": 0.4,
    "sixteen drawn images": 0.4,
    "features off, 1,000 images": 4.0,
    "first frame of a climb": 1.0,
    "a robust climb of both networks": 15.0,
    "start to ready page": 15.0,
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=cli.at_least(1), default=15, help="moves of each kind")
    parser.add_argument("--json", metavar="FILE", help="also write the table there, in lines")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def moves(session):
    """{what: a function of a number, which does it once}."""
    with gradio.Blocks(analytics_enabled=False):
        mislead, drawing = MisleadTab(session), DrawingTab(session)
        switch_off, maximise = SwitchOffTab(session), MaximiseTab(session, None)
    image, shares = mislead.chooser.first(), [0] * len(session.class_names)

    def perturb(attack, n):
        # At one level the critic holds out: all steps are taken.
        mislead.show(image, 1 + n % 2, attack, "away", 1, "with G", None)

    def frames(n):
        return maximise.show(Choice(), "without G", "class", n % 10, 4, 0, "robust")

    return {
        "a new epsilon, one step": partial(perturb, "step"),
        "a new epsilon, 20 steps": partial(perturb, "pgd"),
        "one drawn image": lambda n: drawing.show(0, 3, n, 5, 0, 0.5, *shares),
        "sixteen drawn images": lambda n: drawing.show_sixteen(
            "numbers", 0, 3, n, 5, 0, 0.0, *shares
        ),
        "features off, 1,000 images": lambda n: switch_off.show_accuracy("with G", 8, 0, n, ""),
        "first frame of a climb": lambda n: next(frames(n)),
        "a robust climb of both networks": lambda n: list(frames(n)),
    }


def start(device):
    """Seconds from the command to the page, in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, ROOT / "explore.py", "--no_browser", "--device", device]
    for flag, path in zip(
        ("--discriminator_without_G", "--discriminator_with_G", "--generator"),
        GIVEN.values(),
        strict=True,
    ):
        command += [flag, ROOT / path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready = any(re.match("the page: http", line) for line in process.stdout)
    seconds = time.monotonic() - began
    process.terminate()
    process.communicate()
    if not ready:
        raise RuntimeError("explore.py did not start")
    return seconds


def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    keep_freed_memory()
    given = {name: ROOT / path for name, path in GIVEN.items()}
    session = load_session(given, device, DEFAULT_DATA_DIR, pick_precision("auto", device))
    seconds = {}
    for what, move in moves(session).items():
        move(0)
        taken = []
        for n in range(1, 1 + (args.repeats if GOALS[what] < 5 else 3)):
            began = time.monotonic()
            move(n)
            taken.append(time.monotonic() - began)
        seconds[what] = statistics.median(taken)
    seconds["start to ready page"] = start(args.device)
    about = {
        "device": f"{describe_device(device)}, {os.cpu_count()} cores, torch {torch.__version__}",
        "command": "python benchmarks/page_speed.py",
    }
    lines = []
    for what, taken in seconds.items():
        print(f"{what:<32} {taken:7.3f} s (goal {GOALS[what]:g} s)")
        lines.append(
            json.dumps({"what": what, "s": round(taken, 3), "goal, s": GOALS[what]} | about)
        )
    if args.json:
        Path(args.json).write_text("\n".join(lines) + "\n")
    return seconds


if __name__ == "__main__":
    main()
