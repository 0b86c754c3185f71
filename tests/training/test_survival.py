"""Real processes, really killed, interrupted and starved of disk."""

import os
import random
import re
import signal
import subprocess
import sys

import pytest
import torch

import processes
import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from faults import fill, no_room_for
from generator import Generator
from inside_cnn.engine import cli
from inside_cnn.training import checkpoint
from processes import EVERY_STEP, SMALL
from steps import at_pass, nan_input


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_inside_a_save(run_main, one_thread, tmp_path):
    """The process stands still between writing the temporary file and renaming it; then SIGKILL."""
    flags = [*SMALL, *EVERY_STEP, "--epochs", "2", "--output_dir"]
    assert run_main(train_gan, *flags, tmp_path / "whole")[0] == 0
    mark = tmp_path / "inside"
    program = (
        "import os, sys, time, train_gan\n"
        "replace = os.replace\n"
        "def stand_still(a, b):\n"
        "    if 'step_000000007' in str(b):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        "        time.sleep(60)\n"
        "    replace(a, b)\n"
        "os.replace = stand_still\n"
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
def test_killed_many_times(tmp_path, script, ranks, kills, epochs):
    """52 kills in all; each run is compared with one that was left alone."""
    flags = [*SMALL, *EVERY_STEP, "--epochs", epochs, "--output_dir"]
    done = processes.run(script, [*flags, tmp_path / "whole"], ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    parts, rng = tmp_path / "parts", random.Random(ranks)
    steps = processes.train_through_kills(script, [*flags, parts], parts, kills, rng, ranks)
    assert steps == sorted(steps)
    assert len(set(steps)) == kills  # each process came further than the one before
    assert_same_run(tmp_path / "whole", parts)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 128 + signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_second_process_is_refused_until_a_signal_ends_the_first(
    run_main, tmp_path, number, code
):
    run = tmp_path / "run"
    flags = [*SMALL, *EVERY_STEP, "--epochs", "200", "--output_dir", run]
    (process,) = running = processes.start("train_gan.py", flags)
    processes.wait_for_step(running, run, 1)
    refusal = run_main(train_gan, *flags)
    assert refusal[0] == 2
    assert f"in use by process {process.pid} on " in refusal[2]
    os.kill(process.pid, number)
    codes, out, err = processes.ends(running)
    assert codes == [code], err
    step = int(re.search(rf"stopped by {number.name} after step (\d+)", out)[1])
    assert processes.newest_step(run) == step
    code, out, _ = run_main(train_gan, *flags, "--max_minutes", "0")
    assert code == 0
    assert f"time is up after step {step + 1}; the same command goes on" in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_the_output_does_not_end_the_run(tmp_path):
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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"cannot mount a small file system: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_does_not_end_the_training(run_main, small_disk, tmp_path):
    """It fills up at step 7: after the first checkpoint, before the second."""
    flags = [*SMALL, "--epochs", "3", "--output_dir"]
    assert run_main(train_gan, *flags, tmp_path / "whole")[0] == 0
    with at_pass(Generator, {7: lambda: fill(small_disk / "filler")}):
        code, out, err = run_main(train_gan, *flags, small_disk / "run")
    assert code == cli.SAVE_FAILED
    assert "No space left on device" in err
    assert "the run ended, but could not write" in out
    assert checkpoint.load_latest(small_disk / "run" / "checkpoints")["step"] == 5
    (small_disk / "filler").unlink()
    code, out, _ = run_main(train_gan, *flags, small_disk / "run")
    assert code == 0
    assert "resumed after step 5" in out
    assert_same_run(tmp_path / "whole", small_disk / "run")


@pytest.mark.parametrize(
    ("script", "network", "kind"),
    [
        (train_gan, Discriminator, Generator),
        (train_gan, Generator, Generator),
        (train_discriminator, Discriminator, Discriminator),
    ],
)
def test_nan_is_stopped_before_the_step(run_main, tmp_path, script, network, kind):
    """NaN images, or latents, at step 8: reported there, not at the end of the epoch."""
    flags = [*SMALL, "--epochs", "2", "--output_dir"]
    with nan_input(network, kind, after=7):
        code, out, _ = run_main(script, *flags, tmp_path / "run")
    assert code == cli.DIVERGED
    assert "diverged at step 8: " in out
    assert "step_000000005.pt" in out
    code, out, _ = run_main(script, *flags, tmp_path / "run")
    assert code == 0
    assert "resumed after step 5" in out


def test_a_stop_that_cannot_save_does_not_report_success(run_main, tmp_path):
    flags = [*SMALL, "--max_minutes", "0", "--output_dir", tmp_path / "run"]
    with no_room_for("step_*.pt"):
        code, out, _ = run_main(train_discriminator, *flags)
    assert code == cli.SAVE_FAILED
    assert "after step 1, which could not be saved" in out


@pytest.mark.parametrize(
    ("script", "name"),
    [(train_gan, "generator.safetensors"), (train_discriminator, "discriminator.safetensors")],
)
def test_an_export_that_failed_is_written_by_the_same_command(run_main, tmp_path, script, name):
    run = tmp_path / "run"
    flags = [*SMALL, "--max_steps", "2", "--output_dir", run]
    with no_room_for(name):
        code, out, err = run_main(script, *flags)
    assert code == cli.SAVE_FAILED
    assert f"could not write {name}" in err
    assert f"the run ended, but could not write {name}" in out
    assert not (run / "summary.json").exists()
    code, out, _ = run_main(script, *flags)
    assert code == 0
    assert "finished already" not in out
    assert (run / name).is_file()
    assert (run / "summary.json").exists()
