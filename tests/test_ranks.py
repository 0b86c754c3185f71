import pytest
import torch

import train_gan
from compare import assert_equal, assert_same_export, records
from discriminator import Discriminator
from generator import Generator, sample_latents
from processes import SMALL, run


def test_two_ranks_give_the_gradients_of_one(tmp_path, images):
    labels, fake_labels = torch.arange(8), torch.arange(8).flip(0)
    latents = sample_latents(fake_labels, generator=torch.Generator().manual_seed(0))
    mix = train_gan.sample_mix(8, "cpu", torch.Generator().manual_seed(1))
    batch = [images, labels, latents, fake_labels, mix]
    torch.save(batch, tmp_path / "batch.pt")
    done = run("tests/rank_worker.py", [tmp_path / "batch.pt", tmp_path / "found.pt"], ranks=2)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)

    torch.manual_seed(100)  # the weights of rank 0
    discriminator, generator = Discriminator(width=4), Generator(width=4).eval()
    parts = train_gan.discriminator_backward(
        discriminator, generator, images, labels, latents, fake_labels, mix, 10.0, "fp32"
    )
    assert found["loss"].item() == pytest.approx(parts["discriminator_loss"].item(), rel=1e-5)
    for name, parameter in discriminator.named_parameters():
        error = (found["gradients"][name] - parameter.grad).abs().max()
        scale = max(1.0, parameter.grad.abs().max())
        assert error <= 1e-5 * scale, name


def test_the_classifier_is_the_same_with_two_ranks(tmp_path):
    """No BatchNorm: the whole run agrees, the uneven last batch and the split test set included."""
    flags = [*SMALL, "--epochs", 2, "--batch_size", 32, "--limit_test", 41]
    for ranks in (1, 2):
        done = run("train_discriminator.py", [*flags, "--output_dir", tmp_path / str(ranks)], ranks)
        assert done.returncode == 0, done.stderr
    one, two = records(tmp_path / "1"), records(tmp_path / "2")
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
        assert a["step"] == b["step"]
        assert a["test_accuracy"] == b["test_accuracy"]


def test_two_ranks_resume_exactly_and_one_rank_can_go_on(tmp_path):
    def train(folder, epochs, ranks=2):
        flags = [*SMALL, "--output_dir", tmp_path / folder, "--epochs", epochs]
        done = run("train_gan.py", flags, ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("data: ") == 1  # rank 0 alone speaks
        return done.stdout

    train("whole", 2)
    train("parts", 1)
    assert "resumed after step 5" in train("parts", 2)
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    for name in ("discriminator", "generator", "generator_raw"):
        assert_same_export(*(tmp_path / f / f"{name}.safetensors" for f in ("whole", "parts")))
    assert "resumed after step 10" in train("parts", 3, ranks=1)
    assert [r["step"] for r in records(tmp_path / "parts")] == [5, 10, 15]
    assert_equal(records(tmp_path / "parts")[:2], records(tmp_path / "whole"))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    flags = [*SMALL, "--batch_size", 15, "--output_dir", tmp_path / "run"]
    done = run("train_gan.py", flags, ranks=2)
    assert done.returncode != 0
    assert "--batch_size 15 does not give each of the 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
