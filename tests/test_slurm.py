"""The batch script with fake srun, scontrol and python commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from processes import ROOT, write_command

FAKES = {
    # Slurm signals all tasks before the time limit. srun ends with the highest exit code.
    # Without the option Slurm may kill the tasks that still save.
    "srun": """
        [ "$1" = --kill-on-bad-exit=0 ] && shift || exit 9
        for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
            SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!)
        done
        if [ $CODE = signal ]; then
            for rank in "${!tasks[@]}"; do until [ -s "$TASKS/$rank" ]; do sleep 0.01; done; done
            kill -USR1 "${tasks[@]}"
        fi
        for task in "${tasks[@]}"; do wait "$task" || code=$?; done
        exit ${code:-0}""",
    "scontrol": '[ "$1" = show ] && echo first && echo second || echo "$@" > "$TASKS/requests"',
    "python": """
        trap "exit 138" USR1
        echo "$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT $SRUN_CPUS_PER_TASK $*" \
            > "$TASKS/$RANK"
        while [ $CODE = signal ]; do sleep 0.01; done
        exit $CODE""",
}


@pytest.mark.parametrize(
    ("script", "code", "flags", "added"),
    [
        ("train_gan.py", 0, ["--device=cpu"], ""),
        ("train_gan.py", 4, [], " --device cuda"),  # a job never trains on the CPU by itself
        ("train_discriminator.py", "signal", ["--output_dir", "two words"], " --device cuda"),
    ],
)
def test_job_is_requeued_after_a_signal_only(tmp_path, script, code, flags, added):
    for name, commands in FAKES.items():
        write_command(tmp_path / name, f"#!/bin/bash\n{commands}\n")
    (tmp_path / "tasks").mkdir()
    job = {"JOB_ID": "770123", "JOB_NODELIST": "node[1-2]", "NTASKS": "2", "CPUS_PER_TASK": "4"}
    environment = os.environ | {f"SLURM_{name}": value for name, value in job.items()}
    environment |= {"CODE": str(code), "TASKS": str(tmp_path / "tasks")}
    environment["PATH"] = f"{tmp_path}:/usr/bin:/bin"
    command = ["bash", ROOT / "slurm/train.sbatch", script, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == (138 if code == "signal" else code)
    files = {path.name: path.read_text() for path in (tmp_path / "tasks").iterdir()}
    call = " ".join(["first 20123 4", script, *flags]) + added + "\n"
    requests = {"requests": "requeue 770123\n"} if code == "signal" else {}
    assert files == {"0": f"2 0 {call}", "1": f"2 1 {call}"} | requests


def test_shellcheck():
    scripts = [*sorted((ROOT / "slurm").iterdir()), ROOT / ".ci" / "run"]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
