"""Runs of two processes: their gradients, their resumption, and every way out of them."""

import os
import signal
import subprocess
import sys

import pytest
import torch

import processes
import rank_worker
import train_discriminator
import train_gan
from compare import assert_same_run, records
from generator import sample_latents
from inside_cnn.training import panels
from inside_cnn.training.run import TrainingRun
from processes import EVERY_STEP, SMALL, ends, run, start

slow = pytest.mark.slow


def test_two_ranks_give_the_gradients_of_one(tmp_path, images):
    labels, fake_labels = torch.arange(8), torch.arange(8).flip(0)
    z = sample_latents(fake_labels, generator=torch.Generator().manual_seed(0))
    alpha = torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(1))  # of 8 pairs
    batch = [images, labels, z, fake_labels, alpha]
    torch.save(batch, tmp_path / "batch.pt")
    files = [tmp_path / "batch.pt", tmp_path / "of_two.pt"]
    done = run("tests/helpers/rank_worker.py", files, ranks=2)
    assert done.returncode == 0, done.stderr
    of_two = torch.load(tmp_path / "of_two.pt", weights_only=True)

    args = train_gan.parse_args(rank_worker.FLAGS)
    with TrainingRun(args, "train_gan.py", panels.GAN) as alone:
        gan = train_gan.GAN(alone, args)  # with the weights of rank 0
        gan.generator.eval()
        metrics = rank_worker.update(gan, batch)
    assert of_two["loss"].item() == pytest.approx(metrics["discriminator_loss"].item(), rel=1e-5)
    for name, parameter in gan.discriminator.named_parameters():
        error = (of_two["gradients"][name] - parameter.grad).abs().max()
        assert error <= 1e-5 * max(1.0, parameter.grad.abs().max()), name


@slow
def test_rank_0_may_act_for_longer_than_the_others_wait():
    done = run("tests/helpers/slow_rank.py", [], ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK from 0"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "whole numbers"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR"),
    ],
)
def test_an_environment_that_does_not_fit(refused, monkeypatch, tmp_path, environment, message):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert message in refused(train_gan, *SMALL, "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------ resumed runs


def assert_close_records(one, two):
    """The same steps and fields; without BatchNorm the numbers too, except for rounding."""
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
        assert a["step"] == b["step"]
        assert a["test_accuracy"] == b["test_accuracy"]


def test_two_ranks_resume_a_run_of_one(run_main, tmp_path):
    """No BatchNorm: the runs agree, with an uneven last batch and a test set that is split.

    It stops after step 1 of 6. The sums of the epoch that was cut are not counted twice.
    """
    flags = [*SMALL, "--epochs", 2, "--batch_size", 32, "--limit_test", 41]
    flags += ["--flip", "alternating", "--output_dir"]
    assert run_main(train_discriminator, *flags, tmp_path / "whole")[0] == 0
    code, out, _ = run_main(train_discriminator, *flags, tmp_path / "run", "--max_minutes", 0)
    assert code == 0
    assert "time is up after step 1" in out
    done = run("train_discriminator.py", [*flags, tmp_path / "run"], ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumed after step 1\n") == 1
    assert_close_records(records(tmp_path / "whole"), records(tmp_path / "run"))


@slow
@pytest.mark.parametrize("script", ["train_gan.py", "train_discriminator.py"])
def test_two_ranks_stopped_in_mid_epoch_resume_exactly(tmp_path, script):
    """The GAN stops between two generator steps; then a run of one rank resumes from there."""
    more = ["--epochs", 2] + (["--gen_train", 2] if script == "train_gan.py" else [])

    def train(folder, *flags, ranks=2):
        done = run(script, [*SMALL, *more, "--output_dir", tmp_path / folder, *flags], ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("data: ") == 1  # rank 0 alone prints
        return done.stdout

    train("whole", "--max_steps", 5)
    assert "time is up after step 1" in train("parts", "--max_steps", 5, "--max_minutes", 0)
    assert "resumed after step 1" in train("parts", "--max_steps", 5)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert "resumed after step 5" in train("parts", ranks=1)
    assert [record["step"] for record in records(tmp_path / "parts")] == [5, 10]


# ------------------------------------------------------------------------------ ways out


@slow
def test_the_end_of_the_run(tmp_path):
    flags = [*SMALL, "--epochs", 1, "--output_dir", tmp_path / "run"]
    for line in ("peak memory", "finished already"):
        codes, out, err = ends(start("train_gan.py", flags, ranks=2))
        assert codes == [0, 0], err
        assert out.count(line) == 1


@slow
def test_time_is_up_fifty_times(tmp_path):
    flags = [*SMALL, "--max_minutes", 0, "--limit_test", 10, "--output_dir"]
    for attempt in range(50):
        flags_of_run = [*flags, tmp_path / str(attempt)]
        codes, out, err = ends(start("train_discriminator.py", flags_of_run, ranks=2))
        assert codes == [0, 0], (attempt, err)
        assert out.count("time is up after step 1;") == 1
        assert "terminate called" not in err


def running(folder):
    """Two processes of a long run, after their first save."""
    flags = [*SMALL, *EVERY_STEP, "--epochs", 200, "--output_dir", folder]
    pair = start("train_gan.py", flags, ranks=2)
    processes.wait_for_step(pair, folder, 1)
    return pair


@pytest.mark.parametrize("receiver", [pytest.param(0, marks=slow), 1])
def test_a_signal_to_one_stops_both(tmp_path, receiver):
    pair = running(tmp_path / "run")
    os.kill(pair[receiver].pid, signal.SIGTERM)
    codes, out, err = ends(pair)
    assert codes == [143, 143], err
    assert out.count("stopped by SIGTERM after step") == 1


@slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_dies_ends_the_other(tmp_path, victim):
    pair = running(tmp_path / "run")
    pair[victim].kill()
    codes, _, err = ends(pair)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 2, err
    assert err.count("error: the processes of this run lost each other") == 1
    assert "Traceback" not in err


@slow
def test_sigterm_to_torchrun_saves(tmp_path):
    """It sends SIGTERM on; its own exit code differs."""
    folder = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = [*SMALL, *EVERY_STEP, "--epochs", 200, "--output_dir", folder]
    with subprocess.Popen(
        [*launcher, *map(str, ("train_gan.py", *flags))],
        cwd=processes.ROOT,
        env=processes.ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        processes.wait_for_step([process], folder, 1)
        process.terminate()
        out = process.communicate(timeout=60)[0]
    assert f"stopped by SIGTERM after step {processes.newest_step(folder)};" in out


@slow
def test_divergence(tmp_path):
    flags = [*SMALL, "--epochs", 30, "--lr", "1e36", "--output_dir", tmp_path / "run"]
    codes, out, err = ends(start("train_discriminator.py", flags, ranks=2))
    assert codes == [3, 3], err
    assert out.count("diverged at step") == 1


@pytest.mark.parametrize(
    ("flags", "of_rank_1", "messages"),
    [
        ([], ["--device", "cuda:99"], ["--device cuda:99 puts all processes on one GPU"]),
        pytest.param([], ["--batch_size", 81], ["81 is larger than the set"], marks=slow),
        pytest.param([], ["--seed", 5], ["seed is 0 on rank 0, 5 on 1"], marks=slow),
        pytest.param(["--batch_size", 15], [], ["not give each of the 2 processes"], marks=slow),
        pytest.param(
            ["--device", "cuda:98"], ["--device", "abacus"], ["cuda:98", "abacus"], marks=slow
        ),
    ],
)
def test_rank_0_prints_all_errors_once(tmp_path, flags, of_rank_1, messages):
    flags = [*SMALL, *flags, "--output_dir", tmp_path / "run"]
    codes, _, err = ends(start("train_gan.py", flags, 2, of_rank_1))
    assert codes == [2, 2], err
    assert err.count("error: ") == len(messages)
    assert all(err.count(message) == 1 for message in messages)
    assert not (tmp_path / "run").exists()
