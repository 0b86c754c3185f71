"""Training processes: start, wait, kill."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from inside_cnn.training import checkpoint

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    *("--dataset", "shapes", "--limit_train", "80", "--limit_test", "40", "--width", "4"),
    *("--batch_size", "16", "--device", "cpu", "--precision", "fp32"),
]
EVERY_STEP = ["--save_every_minutes", "0"]  # is saved, so that many kills interrupt a save
# One thread: small networks are no faster with two.
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests/helpers"))),
}


def write_command(path, script):
    """An executable file, for example in place of a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@contextlib.contextmanager
def started(script, flags, ranks=1):
    """A running process for each rank, all killed at the end of the context.

    Started directly, since torchrun hides exit codes.
    """
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, (script, *flags))],
            cwd=ROOT,
            env=ENVIRONMENT | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def ends(processes, timeout=180):
    """(exit codes, stdout of all, stderr of all). All have ten seconds after the first to end."""
    wait_until(lambda: any(process.poll() is not None for process in processes), timeout)
    written = [process.communicate(timeout=10) for process in processes]
    return [process.returncode for process in processes], *map("".join, zip(*written, strict=True))


def run(script, flags, ranks=1):
    """What `ends` returns, of a whole run."""
    with started(script, flags, ranks) as processes:
        return ends(processes)


def wait_for_step(processes, folder, step):
    """Wait for the checkpoint of that step or a later one, or for the end of a process."""
    wait_until(lambda: newest_step(folder) >= step or any(p.poll() is not None for p in processes))


def newest_step(folder):
    """The step of the newest checkpoint, 0 if there is none."""
    paths = checkpoint.list_checkpoints(Path(folder) / "checkpoints")
    return checkpoint.checkpoint_step(paths[0]) if paths else 0


def wait_until(condition, timeout=120):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.005)
