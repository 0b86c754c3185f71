"""Real training processes: started, watched, killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = [
    *("--dataset", "shapes", "--limit_train", "80", "--limit_test", "40", "--width", "4"),
    *("--batch_size", "16", "--device", "cpu", "--precision", "fp32"),
]
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


def start(script, flags, ranks=1):
    """A running process, in a session of its own, that has come to its first training step."""
    process = subprocess.Popen(
        command(script, flags, ranks),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith(("run: ", "resumed after", "finished already")):
            break
    return process


def kill(process):
    """SIGKILL to the process and all its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def train_through_kills(script, flags, kills, rng, ranks=1, longest=2.5):
    """Start, SIGKILL after a random time, again and again; then run to the end. Returns the kills.

    A kill that comes after the run's end does not count.
    """
    hit = 0
    while hit < kills:
        process = start(script, flags, ranks)
        time.sleep(rng.uniform(0, longest))
        if process.poll() is not None:
            process.stdout.close()
            break
        kill(process)
        hit += 1
    done = run(script, flags, ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return hit


def seeded(number):
    return random.Random(number)
