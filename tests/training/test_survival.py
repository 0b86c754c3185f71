"""Training processes that are killed, interrupted or cannot write."""

import os
import random
import re
import subprocess
import sys

import pytest
import torch

import processes
import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from faults import no_room_for
from generator import Generator
from inside_cnn.engine import cli
from processes import EVERY_STEP, SMALL
from steps import nan_input


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_inside_a_save(run_main, one_thread, tmp_path):
    """SIGKILL between writing the temporary file and renaming it."""
    flags = [*SMALL, *EVERY_STEP, "--epochs", "2", "--output_dir"]
    assert run_main(train_gan, *flags, tmp_path / "whole")[0] == 0
    mark = tmp_path / "inside"
    program = (
        "import os, sys, time, train_gan\n"
        "replace = os.replace\n"
        "def wait(a, b):\n"
        "    if 'step_000000007' in str(b):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        "        time.sleep(60)\n"
        "    replace(a, b)\n"
        "os.replace = wait\n"
        "train_gan.main(sys.argv[1:])\n"
    )
    parts = tmp_path / "parts"
    (process,) = processes.start("-c", [program, *flags, parts])
    processes.wait_until(lambda: mark.exists() or process.poll() is not None)
    processes.kill([process])
    temporary, *complete = sorted(path.name for path in (parts / "checkpoints").iterdir())
    assert re.fullmatch(r"\.step_000000007\.pt\..+\.tmp", temporary)
    assert complete == ["step_000000005.pt", "step_000000006.pt"]
    code, out, _ = run_main(train_gan, *flags, parts)
    assert code == 0
    assert "resumed after step 6" in out
    assert_same_run(tmp_path / "whole", parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "ranks", "kills", "epochs"),
    [
        ("train_gan.py", 1, 20, 24),
        ("train_gan.py", 2, 12, 16),
        ("train_discriminator.py", 1, 20, 24),
    ],
)
def test_killed_52_times(tmp_path, script, ranks, kills, epochs):
    """Each run equals an uninterrupted one."""
    flags = [*SMALL, *EVERY_STEP, "--epochs", epochs, "--output_dir"]
    done = processes.run(script, [*flags, tmp_path / "whole"], ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    parts, rng = tmp_path / "parts", random.Random(ranks)
    steps = processes.train_through_kills(script, [*flags, parts], parts, kills, rng, ranks)
    assert steps == sorted(steps)
    assert len(set(steps)) == kills  # each process saved a later step
    assert_same_run(tmp_path / "whole", parts)


def test_a_second_process_is_refused_until_a_signal_ends_the_first(run_main, tmp_path):
    run = tmp_path / "run"
    flags = [*SMALL, *EVERY_STEP, "--epochs", "200", "--output_dir", run]
    (process,) = running = processes.start("train_gan.py", flags)
    processes.wait_for_step(running, run, 1)
    code, _, err = run_main(train_gan, *flags)
    assert code == 2
    assert f"in use by process {process.pid} on " in err
    process.terminate()
    codes, out, err = processes.ends(running)
    assert codes == [143], err
    step = int(re.search(r"stopped by SIGTERM after step (\d+)", out)[1])
    assert processes.newest_step(run) == step
    code, out, _ = run_main(train_gan, *flags, "--max_minutes", "0")
    assert code == 0
    assert f"time is up after step {step + 1}; the same command resumes" in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_stdout_does_not_end_the_run(tmp_path):
    flags = [*SMALL, "--max_steps", "1", "--output_dir", tmp_path / "run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "train_discriminator.py", *map(str, flags)],
            cwd=processes.ROOT,
            env=processes.ENVIRONMENT,
            stdout=full,
            stderr=full,
            timeout=120,
        )
    assert done.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("script", "network", "kind"),
    [
        (train_gan, Discriminator, Generator),
        (train_gan, Generator, Generator),
        (train_discriminator, Discriminator, Discriminator),
    ],
)
def test_nan_stops_the_run_before_the_step(run_main, tmp_path, script, network, kind):
    """NaN images or latents at step 8."""
    flags = [*SMALL, "--epochs", "2", "--output_dir"]
    with nan_input(network, kind, after=7):
        code, out, _ = run_main(script, *flags, tmp_path / "run")
    assert code == cli.DIVERGED
    assert "diverged at step 8: " in out
    assert "step_000000005.pt" in out
    code, out, _ = run_main(script, *flags, tmp_path / "run")
    assert code == 0
    assert "resumed after step 5" in out


def test_a_stop_without_a_checkpoint_has_exit_code_4(run_main, tmp_path):
    flags = [*SMALL, "--max_minutes", "0", "--output_dir", tmp_path / "run"]
    with no_room_for("step_*.pt"):
        code, out, _ = run_main(train_discriminator, *flags)
    assert code == cli.SAVE_FAILED
    assert "after step 1, which could not be saved" in out
