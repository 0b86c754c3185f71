import os
import random
import re
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch

import processes
import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from faults import failing, no_room_for
from generator import Generator
from inside_cnn.engine import cli
from inside_cnn.engine.weights import load_model
from inside_cnn.training import panels
from inside_cnn.training.run import TrainingRun
from processes import EVERY_STEP, SMALL
from steps import nan_input


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KILLED_IN_SAVE = """
import os, quick_plots, sys, time, train_gan
quick_plots.use()
replace = os.replace
def wait(a, b):
    if "step_000000007" in str(b):
        print("inside", flush=True)
        time.sleep(300)
    replace(a, b)
os.replace = wait
train_gan.main(sys.argv[1:])
"""


def test_killed_inside_a_save(run_main, succeed, one_thread, small_folder, tmp_path):
    """SIGKILL between writing the temporary file and renaming it. Until then, no other process may
    write into the folder."""
    flags = [*SMALL, *small_folder, *EVERY_STEP, "--epochs", "2", "--output_dir"]
    succeed(train_gan, *flags, tmp_path / "whole")
    parts = tmp_path / "parts"
    with processes.started("-c", [KILLED_IN_SAVE, *flags, parts]) as (process,):
        assert "inside\n" in process.stdout
        code, _, err = run_main(train_gan, *flags, parts)
        assert code == 2
        assert f"in use by process {process.pid} on " in err
    temporary, *complete = sorted(path.name for path in (parts / "checkpoints").iterdir())
    assert re.fullmatch(r"\.step_000000007\.pt\..+\.tmp", temporary)
    assert complete == ["step_000000005.pt", "step_000000006.pt"]
    out = succeed(train_gan, *flags, parts)
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
    codes, out, err = processes.run(script, [*flags, tmp_path / "whole"], ranks)
    assert codes == [0] * ranks, out + err
    parts, rng, steps = tmp_path / "parts", random.Random(ranks), []
    for _ in range(kills):
        with processes.started(script, [*flags, parts], ranks) as running:
            step = processes.newest_step(parts) + 1 + rng.randrange(3)
            processes.wait_for_step(running, parts, step)
            time.sleep(rng.uniform(0, 0.05))  # a step and its save take about as long
            assert all(process.poll() is None for process in running)
        steps.append(processes.newest_step(parts))
    codes, out, err = processes.run(script, [*flags, parts], ranks)
    assert codes == [0] * ranks, out + err
    assert steps == sorted(steps)
    assert len(set(steps)) == kills  # each process saved a later step
    assert_same_run(tmp_path / "whole", parts)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_stdout_does_not_end_the_run(tmp_path):
    flags = [*SMALL, "--max_steps", "1", "--output_dir", str(tmp_path)]
    with open("/dev/full", "w") as full, redirect_stdout(full), redirect_stderr(full):
        assert train_discriminator.main(flags) == 0
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("script", "network", "kind"),
    [
        (train_gan, Discriminator, Generator),
        (train_gan, Generator, Generator),
        (train_discriminator, Discriminator, Discriminator),
    ],
)
def test_nan_stops_the_run_before_the_step(run_main, succeed, tmp_path, script, network, kind):
    """NaN images or latents at step 8."""
    flags = [*SMALL, "--epochs", "2", "--output_dir"]
    with nan_input(network, kind, after=7):
        code, out, _ = run_main(script, *flags, tmp_path / "run")
    assert code == cli.DIVERGED
    assert "diverged at step 8: " in out
    assert "step_000000005.pt" in out
    out = succeed(script, *flags, tmp_path / "run")
    assert "resumed after step 5" in out


SIX_STEPS = [*SMALL, "--limit_train", 48, *EVERY_STEP, "--epochs", 2, "--output_dir"]


@pytest.mark.parametrize(
    ("script", "stride"),
    [
        (train_discriminator, 13),
        pytest.param(train_discriminator, 1, marks=pytest.mark.slow),
        pytest.param(train_gan, 1, marks=pytest.mark.slow),
    ],
)
def test_a_failed_write(run_main, succeed, tmp_path, script, stride):
    """Exit code 2: the run could not begin; 4: a file is missing at the end; 0: after a retry."""
    whole = tmp_path / "whole"
    with failing(0) as attempts:
        succeed(script, *SIX_STEPS, whole)
    assert len(attempts) > 40
    codes = set()
    for number in range(1, len(attempts) + 1, stride):
        run = tmp_path / str(number)
        with failing(number):
            code, out, err = run_main(script, *SIX_STEPS, run)
        context = (number, attempts[number - 1], code, out, err)
        assert code in (0, 2, cli.SAVE_FAILED), context
        codes.add(code)
        for _ in range(code != 0):
            assert "Input/output error" in out + err, context
            assert run_main(script, *SIX_STEPS, run)[0] == 0, context
        assert_same_run(whole, run, all_files=code != cli.SAVE_FAILED)
    assert stride > 1 or codes == {0, 2, cli.SAVE_FAILED}


def test_best_weights_that_were_not_written_are_not_the_best(tmp_path):
    """A later generator is compared with the best one on the disk."""
    args = train_discriminator.parse_args([str(flag) for flag in (*SIX_STEPS, tmp_path)])
    with TrainingRun(args, "train_discriminator.py", panels.CLASSIFIER) as run:
        run.load_data()
        best = tmp_path / "generator_best.safetensors"
        with no_room_for(best.name):
            run.keep_best(best.name, "score", 2, Discriminator(4), {})
        assert not best.exists()
        assert run.folder.failed.keys() == {best.name}
        run.keep_best(best.name, "score", 1, Discriminator(4), {})
        assert load_model(best)[1]["step"] == 0
        assert not run.folder.failed
