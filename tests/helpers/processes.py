"""Training processes: start, wait, kill."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
    "PYTHONPATH": str(ROOT),
}


def start(script, flags, ranks=1, of_rank_1=()):
    """A running process for each rank; started directly, since torchrun hides exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (script, *flags, *(of_rank_1 if rank else ())))],
            cwd=ROOT,
            env=ENVIRONMENT | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def ends(processes, timeout=180):
    """(exit codes, stdout of all, stderr of all). All have ten seconds after the first to end."""
    try:
        wait_until(lambda: any(process.poll() is not None for process in processes), timeout)
        written = [process.communicate(timeout=10) for process in processes]
    finally:
        kill(processes)
    return [process.returncode for process in processes], *map("".join, zip(*written, strict=True))


def run(script, flags, ranks=1):
    """The finished run: .returncode, not 0 if any is not; .stdout and .stderr of all ranks."""
    codes, out, err = ends(start(script, flags, ranks))
    return SimpleNamespace(returncode=max(codes, key=abs), stdout=out, stderr=err)


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


def kill(processes):
    """SIGKILL to all; returns when they have ended."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        process.stdout.close()
        process.stderr.close()


def train_through_kills(script, flags, folder, kills, rng, ranks=1):
    """Start, SIGKILL at a random moment after some more steps, and so on; then run to the end.

    The flags must ask for a checkpoint at every step. Returns the newest saved step at each kill.
    """
    steps = []
    for _ in range(kills):
        processes = start(script, flags, ranks)
        wait_for_step(processes, folder, newest_step(folder) + 1 + rng.randrange(3))
        time.sleep(rng.uniform(0, 0.05))  # a step and its save take about as long
        assert all(process.poll() is None for process in processes)
        kill(processes)
        steps.append(newest_step(folder))
    done = run(script, flags, ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return steps
