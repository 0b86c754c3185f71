"""Runs of two processes: gradients, resume, and all ways to end."""

import signal

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


def test_gradients_of_two_ranks_equal_those_of_one(tmp_path, images):
    labels, fake_labels = torch.arange(8), torch.arange(8).flip(0)
    z = sample_latents(fake_labels, generator=torch.Generator().manual_seed(0))
    alpha = torch.rand(3, 1, 1, 1, generator=torch.Generator().manual_seed(1))  # two and one
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
    for name, value in of_two["means"].items():
        assert value.item() == pytest.approx(metrics[name].item(), rel=1e-5), name
    for name, parameter in gan.discriminator.named_parameters():
        error = (of_two["gradients"][name] - parameter.grad).abs().max()
        assert error <= 1e-5 * max(1.0, parameter.grad.abs().max()), name


def test_missing_address_of_rank_0_is_refused(refused, monkeypatch, tmp_path):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "MASTER_ADDR" in refused(train_gan, *SMALL, "--output_dir", tmp_path / "run")


# ------------------------------------------------------------------------------ resume


def test_two_ranks_resume_a_run_of_one(run_main, tmp_path):
    """In mid-epoch, with an uneven last batch and test set."""
    flags = [*SMALL, "--epochs", 2, "--batch_size", 32, "--limit_test", 41]
    flags += ["--flip", "alternating", "--output_dir"]
    assert run_main(train_discriminator, *flags, tmp_path / "whole")[0] == 0
    code, out, _ = run_main(train_discriminator, *flags, tmp_path / "run", "--max_minutes", 0)
    assert code == 0
    assert "time is up after step 1" in out
    done = run("train_discriminator.py", [*flags, tmp_path / "run"], ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumed after step 1\n") == 1
    pairs = zip(records(tmp_path / "whole"), records(tmp_path / "run"), strict=True)
    for one, two in pairs:  # the discriminator has no BatchNorm
        assert one == pytest.approx(two, rel=1e-3)


@slow
@pytest.mark.parametrize("script", ["train_gan.py", "train_discriminator.py"])
def test_resume_of_two_ranks_is_bit_identical(tmp_path, script):
    """The GAN stops between two generator steps. At last, one rank resumes the run."""
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


# ------------------------------------------------------------------------------ ends


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


def test_a_signal_to_one_rank_stops_both(tmp_path):
    pair = running(tmp_path / "run")
    pair[1].terminate()
    codes, out, err = ends(pair)
    assert codes == [143, 143], err
    assert out.count("stopped by SIGTERM after step") == 1


@slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other(tmp_path, victim):
    pair = running(tmp_path / "run")
    pair[victim].kill()
    codes, _, err = ends(pair)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 2, err
    assert err.count("error: the processes of this run lost each other") == 1
    assert "Traceback" not in err


@slow
def test_divergence(tmp_path):
    flags = [*SMALL, "--epochs", 30, "--lr", "1e36", "--output_dir", tmp_path / "run"]
    codes, out, err = ends(start("train_discriminator.py", flags, ranks=2))
    assert codes == [3, 3], err
    assert out.count("diverged at step") == 1


@pytest.mark.parametrize(
    ("flags", "of_rank_1", "message"),
    [
        ([], ["--device", "cuda:99"], "--device cuda:99 puts all processes on one GPU"),
        pytest.param(["--batch_size", 15], [], "not give each of the 2 processes", marks=slow),
    ],
)
def test_an_error_is_printed_once(tmp_path, flags, of_rank_1, message):
    flags = [*SMALL, *flags, "--output_dir", tmp_path / "run"]
    codes, _, err = ends(start("train_gan.py", flags, 2, of_rank_1))
    assert codes == [2, 2], err
    assert err.count("error: ") == err.count(message) == 1
    assert not (tmp_path / "run").exists()
