import json

import pytest
import torch

import rank_worker
import train_discriminator
import train_gan
from compare import assert_same_export, records
from engine.weights import load_model
from generator import sample_latents
from processes import SMALL, run
from training import panels
from training.run import TrainingRun


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
        scale = max(1.0, parameter.grad.abs().max())
        assert error <= 1e-5 * scale, name


@pytest.mark.slow
def test_rank_0_may_act_for_longer_than_the_others_wait():
    done = run("tests/helpers/slow_rank.py", [], ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rank_left_over_from_something_else(run_main, tmp_path, monkeypatch):
    """Without WORLD_SIZE this is the only process: it writes, and takes whole batches."""
    flags = [*SMALL, "--max_steps", 2, "--log_every_steps", 1, "--output_dir"]
    assert run_main(train_discriminator, *flags, tmp_path / "plain")[0] == 0
    monkeypatch.setenv("RANK", "1")
    assert run_main(train_discriminator, *flags, tmp_path / "left")[0] == 0
    left, plain = (records(tmp_path / name) for name in ("left", "plain"))
    assert [r["train_loss"] for r in left] == [r["train_loss"] for r in plain]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK goes from 0"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "whole numbers"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "y"}, "MASTER_PORT"),
    ],
)
def test_an_environment_that_does_not_fit(refused, monkeypatch, tmp_path, environment, told):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert told in refused(train_gan, *SMALL, "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def assert_close_records(one, two):
    """The same steps and fields; without BatchNorm the figures too, but for rounding."""
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
        assert a["step"] == b["step"]
        assert a["test_accuracy"] == b["test_accuracy"]


@pytest.mark.slow
def test_the_classifier_is_the_same_with_two_ranks(run_main, tmp_path):
    """No BatchNorm: the whole run agrees, the uneven last batch and the split test set included."""
    flags = [*SMALL, "--epochs", 2, "--batch_size", 32, "--limit_test", 41]
    flags += ["--flip", "alternating", "--output_dir"]
    assert run_main(train_discriminator, *flags, tmp_path / "1")[0] == 0
    done = run("train_discriminator.py", [*flags, tmp_path / "2"], ranks=2)
    assert done.returncode == 0, done.stderr
    assert_close_records(records(tmp_path / "1"), records(tmp_path / "2"))


@pytest.mark.parametrize(
    "script", [train_gan, pytest.param(train_discriminator, marks=pytest.mark.slow)]
)
def test_a_run_of_one_rank_is_taken_up_by_two(run_main, tmp_path, script):
    """It stops after step 1 of 10. The sums of the epoch that was cut are not counted twice."""
    flags = [*SMALL, "--epochs", 2, "--output_dir"]
    code, out, _ = run_main(script, *flags, tmp_path / "run", "--max_minutes", 0)
    assert code == 0
    assert "time is up after step 1" in out
    done = run(f"{script.__name__}.py", [*flags, tmp_path / "run"], ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumed after step 1\n") == 1
    after = records(tmp_path / "run")
    assert [record["step"] for record in after] == [5, 10]
    for path in (tmp_path / "run").glob("*.safetensors"):
        assert load_model(path)[1]["step"] == 10
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 10
    if script is train_discriminator:
        assert run_main(script, *flags, tmp_path / "whole")[0] == 0
        assert_close_records(records(tmp_path / "whole"), after)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_gan.py", "train_discriminator.py"])
def test_two_ranks_stopped_in_mid_epoch_resume_exactly(tmp_path, script):
    """The GAN stops between two generator steps; then a run of one rank goes on from there."""
    more = ["--epochs", 2] + (["--gen_train", 2] if script == "train_gan.py" else [])

    def train(folder, *flags, ranks=2):
        done = run(script, [*SMALL, *more, "--output_dir", tmp_path / folder, *flags], ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("data: ") == 1  # rank 0 alone speaks
        return done.stdout

    first_epoch = ["--max_steps", 5]
    train("whole", *first_epoch)
    assert "time is up after step 1" in train("parts", *first_epoch, "--max_minutes", 0)
    assert "resumed after step 1" in train("parts", *first_epoch)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert records(whole) == records(parts)
    for path in whole.glob("*.safetensors"):
        assert_same_export(path, parts / path.name)
    assert "resumed after step 5" in train("parts", ranks=1)
    assert [record["step"] for record in records(parts)] == [5, 10]
    assert records(parts)[:1] == records(whole)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    flags = [*SMALL, "--batch_size", 15, "--output_dir", tmp_path / "run"]
    done = run("train_gan.py", flags, ranks=2)
    assert done.returncode != 0
    assert "--batch_size 15 does not give each of the 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    flags = [*SMALL, "--output_dir", tmp_path / "file" / "run"]
    done = run("train_discriminator.py", flags, ranks=2)
    assert done.returncode != 0
    assert done.stderr.count("error: cannot write") == 1
    assert "Connection closed" not in done.stderr
