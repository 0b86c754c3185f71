"""The batch scripts with fake srun and scontrol commands and real trainings."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from compare import assert_same_run
from processes import ENVIRONMENT, EVERY_STEP, ROOT, SMALL

SCRIPTS = {"train_gan": "train_gan.sbatch", "train_discriminator": "train_discriminator.sbatch"}


def free_job_id():
    """A job number whose port, 20000 + its last four digits, is free."""
    for number in range(os.getpid() % 5000, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20000 + number)):
                return 770_000 + number
    raise AssertionError("no port is free")


@pytest.fixture
def submit(tmp_path):
    """submit(script, flags, tasks, signal_at): (exit code, output, arguments of scontrol, job)."""
    commands = tmp_path / "commands"
    commands.mkdir()
    requests = tmp_path / "requests"
    fakes = {
        "srun": f'exec {sys.executable} {ROOT}/tests/helpers/srun.py "$@"',
        "scontrol": f'[ "$1" = show ] && echo 127.0.0.1 && echo other || echo "$@" >> {requests}',
        "python": f'exec {sys.executable} "$@"',
    }
    for name, line in fakes.items():
        (commands / name).write_text(f"#!/bin/bash\n{line}\n")
        (commands / name).chmod(0o755)

    def call(script, *flags, tasks=1, signal_at=""):
        requests.write_text("")
        job = free_job_id()
        environment = ENVIRONMENT | {
            "PATH": f"{commands}:/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests/helpers",
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NTASKS": str(tasks),
            "SLURM_CPUS_PER_TASK": "4",
            "SIGNAL_AT": str(signal_at),
        }
        done = subprocess.run(
            ["bash", ROOT / "slurm" / SCRIPTS[script], *map(str, flags)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        return done.returncode, done.stdout + done.stderr, requests.read_text().split(), str(job)

    return call


@pytest.mark.parametrize(
    ("script", "tasks"),
    [
        ("train_discriminator", 1),
        pytest.param("train_discriminator", 2, marks=pytest.mark.slow),
        pytest.param("train_gan", 1, marks=pytest.mark.slow),
        pytest.param("train_gan", 2, marks=pytest.mark.slow),
    ],
)
def test_job_is_saved_requeued_and_resumed(submit, tmp_path, script, tasks):
    flags = [*SMALL, *EVERY_STEP, "--epochs", 2, "--output_dir"]
    assert submit(script, *flags, tmp_path / "whole", tasks=tasks)[0] == 0
    parts = tmp_path / "parts"
    first_save = parts / "checkpoints" / "step_000000002.pt"
    code, output, requests, job = submit(script, *flags, parts, tasks=tasks, signal_at=first_save)
    assert code == 138, output
    assert "stopped by SIGUSR1 after step" in output
    assert requests == ["requeue", job]
    code, output, requests, _ = submit(script, *flags, parts, tasks=tasks)
    assert code == 0, output
    assert "resumed after step" in output
    assert requests == []
    assert_same_run(tmp_path / "whole", parts)


def test_jobs_never_train_on_the_cpu_by_themselves(submit, tmp_path):
    (tmp_path / "commands" / "python").write_text('#!/bin/bash\necho "$@"\n')
    assert "train_gan.py --epochs 3 --device cuda" in submit("train_gan", "--epochs", 3)[1]
    assert "cuda" not in submit("train_gan", "--device=cpu")[1]


def test_shellcheck():
    scripts = [*sorted((ROOT / "slurm").iterdir()), ROOT / ".ci" / "run"]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
