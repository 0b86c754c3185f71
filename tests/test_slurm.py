"""The batch scripts, with stand-ins for srun and scontrol around the real training."""

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
    """A number of a job whose port is free: 20000 + its last four digits."""
    for number in range(os.getpid() % 5000, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20000 + number)):
                return 770_000 + number
    raise AssertionError("no port is free")


@pytest.fixture
def submit(tmp_path):
    """submit(script, flags, tasks, signal_at): (exit code, output, what scontrol was asked for)."""
    commands = tmp_path / "commands"
    commands.mkdir()
    asked = tmp_path / "asked"
    stand_ins = {
        "srun": f'exec {sys.executable} {ROOT}/tests/helpers/srun.py "$@"',
        "scontrol": f'[ "$1" = show ] && echo 127.0.0.1 && echo other || echo "$@" >> {asked}',
        "python": f'exec {sys.executable} "$@"',
    }
    for name, line in stand_ins.items():
        (commands / name).write_text(f"#!/bin/bash\n{line}\n")
        (commands / name).chmod(0o755)

    def call(script, *flags, tasks=1, signal_at="", where=ROOT):
        asked.write_text("")
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
            cwd=where,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        return done.returncode, done.stdout + done.stderr, asked.read_text().split(), str(job)

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
def test_saved_before_the_limit_requeued_and_gone_on_with(submit, tmp_path, script, tasks):
    flags = [*SMALL, *EVERY_STEP, "--epochs", 2, "--output_dir"]
    assert submit(script, *flags, tmp_path / "whole", tasks=tasks)[0] == 0
    parts = tmp_path / "parts"
    first_save = parts / "checkpoints" / "step_000000002.pt"
    code, told, asked, job = submit(script, *flags, parts, tasks=tasks, signal_at=first_save)
    assert code == 138, told
    assert "stopped by SIGUSR1 after step" in told
    assert asked == ["requeue", job]
    code, told, asked, _ = submit(script, *flags, parts, tasks=tasks)
    assert code == 0, told
    assert "resumed after step" in told
    assert asked == []
    assert_same_run(tmp_path / "whole", parts)


def test_what_fails_is_not_requeued(submit, tmp_path):
    code, told, asked, _ = submit("train_discriminator", *SMALL, "--width", "none")
    assert code == 2
    assert "--width" in told
    assert asked == []


def test_submitted_from_elsewhere(submit, tmp_path):
    code, told, asked, _ = submit("train_gan", where=tmp_path)
    assert code == 2
    assert "submit from the root" in told
    assert asked == []


@pytest.mark.parametrize("name", SCRIPTS.values())
def test_slurm_is_told_to_warn_in_time_and_to_requeue(name):
    lines = (ROOT / "slurm" / name).read_text().splitlines()
    options = " ".join(line for line in lines if line.startswith("#SBATCH")).split()
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= set(options)
    before_commands = lines.index(next(x for x in lines if x and not x.startswith("#")))
    assert all(lines.index(x) < before_commands for x in lines if x.startswith("#SBATCH"))


def test_shellcheck():
    scripts = [*sorted((ROOT / "slurm").iterdir()), ROOT / ".ci" / "run"]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
