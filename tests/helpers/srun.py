"""Stands in for Slurm's srun: srun.py OPTION COMMAND..., as SLURM_NTASKS tasks on this machine.

With SIGNAL_AT, a file, every task and its children get SIGUSR1 once that file is there, as Slurm
sends it before the time limit. Ends with the highest exit code of all, as srun does.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LONGEST = 120  # seconds


def descendants(pid):
    """Process ids of the children, their children and so on, from /proc."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [pid for child in children for pid in (child, *descendants(child))]


def main():
    assert os.environ["SRUN_CPUS_PER_TASK"] == os.environ["SLURM_CPUS_PER_TASK"]
    assert sys.argv[1] == "--kill-on-bad-exit=0"  # or Slurm kills tasks that still save
    tasks = []
    for number in range(int(os.environ["SLURM_NTASKS"])):
        place = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        tasks.append(subprocess.Popen(sys.argv[2:], env=os.environ | place))
    mark = os.environ.get("SIGNAL_AT")
    end = time.monotonic() + LONGEST
    while any(task.poll() is None for task in tasks) and time.monotonic() < end:
        if mark and Path(mark).exists():
            mark = None
            for pid in [p for task in tasks for p in (task.pid, *descendants(task.pid))]:
                os.kill(pid, signal.SIGUSR1)
        time.sleep(0.005)
    for task in tasks:
        task.kill()
    codes = [task.wait() for task in tasks]
    return max(code if code >= 0 else 128 - code for code in codes)


if __name__ == "__main__":
    sys.exit(main())
