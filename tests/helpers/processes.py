"""Real training processes: started, watched, killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from process_tree import descendants
from training import checkpoint

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    *("--dataset", "shapes", "--limit_train", "80", "--limit_test", "40", "--width", "4"),
    *("--batch_size", "16", "--device", "cpu", "--precision", "fp32"),
]
EVERY_STEP = ["--save_every_minutes", "0"]  # is saved, so that a kill often lands inside a save
# One thread: small networks are no faster with two, and parallel processes do not get in each
# other's way.
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": str(ROOT),
}


def command(script, flags, ranks=1):
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*launcher, *map(str, (script, *flags))]


def run(script, flags, ranks=1, timeout=180):
    """The finished process, its output in .stdout and .stderr."""
    return subprocess.run(
        command(script, flags, ranks),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def start(script, flags, folder, ranks=1):
    """A running process that has written a checkpoint of its own to the run's folder.

    The flags must ask for a checkpoint at every step.
    """
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the processes of a run in /proc")
    before = newest_step(folder)
    process = subprocess.Popen(
        command(script, flags, ranks),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_step(process, folder, before + 1)
    return process


def wait_for_step(process, folder, step):
    """Wait for that checkpoint, or for the process's end."""
    wait_until(lambda: newest_step(folder) >= step or process.poll() is not None)


def newest_step(folder):
    """The step of the newest checkpoint, 0 where there is none."""
    paths = checkpoint.list_checkpoints(Path(folder) / "checkpoints")
    return checkpoint.checkpoint_step(paths[0]) if paths else 0


def wait_until(condition, timeout=120):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def kill(process):
    """SIGKILL to the process and all its descendants; returns when all are gone."""
    pids = [process.pid, *descendants(process.pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not any(alive(pid) for pid in pids))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def train_through_kills(script, flags, folder, kills, rng, ranks=1):
    """Start, SIGKILL at a random moment after some more steps, and so on; then run to the end.

    Returns the newest saved step at each kill.
    """
    steps = []
    for _ in range(kills):
        process = start(script, flags, folder, ranks)
        goal = newest_step(folder) + rng.randrange(3)
        wait_for_step(process, folder, goal)
        time.sleep(rng.uniform(0, 0.05))  # a step and its save take about as long
        assert process.poll() is None, process.stdout.read()
        kill(process)
        steps.append(newest_step(folder))
    done = run(script, flags, ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return steps
