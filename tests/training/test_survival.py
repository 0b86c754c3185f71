"""Real processes, really killed, interrupted and starved of disk."""

import os
import random
import re
import signal
import subprocess
import time

import pytest
import torch

import processes
import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from engine import cli
from faults import fill, no_room_for
from generator import Generator
from processes import EVERY_STEP, SMALL
from steps import at_pass, nan_input
from training import checkpoint


def survive(script, tmp_path, kills, epochs, seed, ranks=1):
    """Kill a run that often, resume it each time, compare it with one that was left alone."""
    flags = [*SMALL, *EVERY_STEP, "--epochs", epochs, "--output_dir"]
    done = processes.run(script, [*flags, tmp_path / "whole"], ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = tmp_path / "parts"
    rng = random.Random(seed)
    steps = processes.train_through_kills(script, [*flags, parts], parts, kills, rng, ranks)
    assert steps == sorted(steps)
    assert len(set(steps)) == kills  # each process came further than the one before
    assert_same_run(tmp_path / "whole", parts)


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
    process = processes.start("-c", [program, *flags, parts], parts)
    processes.wait_until(lambda: mark.exists() or process.poll() is not None)
    processes.kill(process)
    temporary, *whole = sorted(path.name for path in (parts / "checkpoints").iterdir())
    assert re.fullmatch(r"\.step_000000007\.pt\..+\.tmp", temporary)
    assert whole == ["step_000000005.pt", "step_000000006.pt"]
    code, out, _ = run_main(train_gan, *flags, tmp_path / "parts")
    assert code == 0
    assert "resumed after step 6" in out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


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
    """52 kills in all."""
    survive(script, tmp_path, kills, epochs, seed=ranks, ranks=ranks)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 128 + signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_real_signals(tmp_path, number, code):
    run = tmp_path / "run"
    flags = [*SMALL, *EVERY_STEP, "--epochs", "200", "--output_dir", run]
    process = processes.start("train_gan.py", flags, run)
    sent = time.monotonic()
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code, out
    assert time.monotonic() - sent < 5
    step = int(re.search(rf"stopped by {number.name} after step (\d+)", out)[1])
    assert processes.newest_step(run) == step


@pytest.mark.slow
def test_sigterm_to_torchrun_saves(tmp_path):
    """torchrun hands SIGTERM on; its own exit code differs, the checkpoint is what counts."""
    run = tmp_path / "run"
    flags = [*SMALL, *EVERY_STEP, "--epochs", "200", "--output_dir", run]
    process = processes.start("train_gan.py", flags, run, ranks=2)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    step = int(re.search(r"stopped by SIGTERM after step (\d+)", out)[1])
    assert processes.newest_step(run) == step


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_the_output_does_not_end_the_run(tmp_path):
    flags = [*SMALL, "--epochs", "1", "--output_dir", tmp_path / "run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            processes.command("train_gan.py", flags),
            cwd=processes.ROOT,
            env=processes.ENVIRONMENT,
            stdout=full,
            stderr=full,
            timeout=120,
        )
    assert done.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_max_minutes_stops_with_a_checkpoint_and_says_how_to_go_on(run_main, tmp_path):
    flags = [*SMALL, "--epochs", "3", "--output_dir", tmp_path / "run"]
    code, out, _ = run_main(train_gan, *flags, "--max_minutes", "0")
    assert code == 0
    assert "time is up after step 1; the same command goes on" in out
    code, out, _ = run_main(train_gan, *flags)
    assert code == 0
    assert "resumed after step 1" in out


def test_a_second_process_is_refused_and_a_dead_ones_lock_taken_over(run_main, tmp_path):
    run = tmp_path / "run"
    flags = [*SMALL, *EVERY_STEP, "--epochs", "200", "--output_dir", run]
    process = processes.start("train_gan.py", flags, run)
    code, _, err = run_main(train_gan, *flags)
    assert code == 2
    assert f"in use by process {process.pid} " in err
    processes.kill(process)
    code, out, _ = run_main(train_gan, *flags, "--max_minutes", "0")
    assert code == 0
    assert "time is up" in out


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


def test_a_finished_run_on_a_read_only_mount(run_main, small_disk):
    flags = [*SMALL, "--output_dir", small_disk / "run"]
    finished = [*flags, "--max_steps", "2"]
    assert run_main(train_gan, *finished)[0] == 0
    (small_disk / "run/.lock").unlink()  # copied without hidden files
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, out, err = run_main(train_gan, *finished)
    assert (code, err) == (0, "")
    assert "finished already" in out
    code, _, err = run_main(train_gan, *flags)
    assert code == 2
    assert "cannot write" in err


@pytest.mark.parametrize(
    ("script", "network", "kind"),
    [
        (train_gan, Discriminator, Generator),
        (train_gan, Generator, Generator),
        (train_discriminator, Discriminator, Discriminator),
    ],
)
def test_nan_is_stopped_before_the_step(run_main, tmp_path, script, network, kind):
    """NaN images, or latents, at step 8: told there, not first where the epoch is to be saved."""
    flags = [*SMALL, "--epochs", "2", "--output_dir"]
    assert run_main(script, *flags, tmp_path / "whole")[0] == 0
    with nan_input(network, kind, after=7):
        code, out, _ = run_main(script, *flags, tmp_path / "parts")
    assert code == cli.DIVERGED
    assert "diverged at step 8: " in out
    assert "step_000000005.pt" in out
    state = checkpoint.load_latest(tmp_path / "parts" / "checkpoints")
    assert state["step"] == 5
    assert not checkpoint.not_finite(state)
    assert run_main(script, *flags, tmp_path / "parts")[0] == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("script", [train_gan, train_discriminator])
def test_a_stop_that_cannot_save_does_not_report_success(run_main, tmp_path, script):
    flags = [*SMALL, "--epochs", "3", "--max_minutes", "0", "--output_dir", tmp_path / "run"]
    with no_room_for("step_*.pt"):
        code, out, _ = run_main(script, *flags)
    assert code == cli.SAVE_FAILED
    assert "after step 1, which could not be saved" in out
    assert not checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (train_gan, "generator.safetensors"),
        (train_gan, "discriminator.safetensors"),
        (train_discriminator, "discriminator.safetensors"),
    ],
)
def test_an_export_that_failed_is_made_good_by_the_same_command(run_main, tmp_path, script, name):
    """A folder stands where the file belongs."""
    run = tmp_path / "run"
    flags = [*SMALL, "--epochs", "1", "--output_dir", run]
    (run / name / "in the way").mkdir(parents=True)
    code, out, err = run_main(script, *flags)
    assert code == cli.SAVE_FAILED
    assert f"could not write {name}" in err
    assert f"the run ended, but could not write {name}" in out
    assert not (run / "summary.json").exists()
    (run / name / "in the way").rmdir()
    (run / name).rmdir()
    code, out, _ = run_main(script, *flags)
    assert code == 0
    assert "finished already" not in out
    assert (run / name).is_file()
    assert (run / "summary.json").exists()


@pytest.mark.parametrize("script", [train_gan, train_discriminator])
def test_crafted_states_with_a_right_checksum_are_refused(refused, run_main, tmp_path, script):
    """Anyone can compute a checksum: missing keys, other shapes, NaN, another step's type."""
    flags = [*SMALL, "--epochs", "2", "--output_dir", tmp_path / "run"]
    assert run_main(script, *flags, "--max_steps", "1")[0] == 0
    folder = tmp_path / "run" / "checkpoints"
    good = checkpoint.load_latest(folder)
    weights = "discriminator" if script is train_gan else "model"
    name = "critic_head.weight"
    optimizer = "d_optimizer" if script is train_gan else "optimizer"
    parts = good["parts"]
    states = parts[optimizer]["states"]

    def with_part(name, state):
        return good | {"parts": parts | {name: state}}

    index = next(iter(states[0]))
    small = {key: torch.zeros(()) for key in states[0][index]}
    crafted = {
        "small moments": with_part(optimizer, {"states": [{index: small}, *states[1:]]}),
        "no totals": {k: v for k, v in good.items() if k != "totals"},
        "no step": {k: v for k, v in good.items() if k != "step"},
        "a step of another type": good | {"step": "1"},
        "no weights": with_part(weights, {}),
        "another shape": with_part(weights, parts[weights] | {name: torch.zeros(2, 2)}),
        "NaN": with_part(weights, parts[weights] | {name: torch.full((1, 4), float("nan"))}),
        "extra weights": with_part(weights, parts[weights] | {"extra": torch.zeros(1)}),
        "a string": with_part(weights, "weights"),
        "no format": {k: v for k, v in good.items() if k != "format"},
        "another script": good | {"of": {"script": "evil.py", "width": 4}},
    }
    for what, state in crafted.items():
        checkpoint.save_checkpoint(folder, 2, state)
        assert "checkpoint" in refused(script, *flags), what
