"""A stopped and resumed run is bit-identical to an uninterrupted one."""

import signal

import pytest

import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from generator import Generator
from processes import SMALL
from steps import signal_at_pass

# Five steps an epoch: train_gan.py drops the last, smaller batch.
IMAGES = {train_gan: 85, train_discriminator: 78}
# The network with one training pass per step.
ONE_PASS_PER_STEP = {train_gan: Generator, train_discriminator: Discriminator}


@pytest.fixture
def train(run_main, tmp_path):
    """Train in a folder of tmp_path. Returns what run_main does."""

    def call(script, folder, *flags):
        own = ["--limit_train", IMAGES[script], "--output_dir", tmp_path / folder]
        return run_main(script, *SMALL, *own, *flags)

    return call


@pytest.mark.parametrize(
    ("script", "recipe", "precision"),
    [
        (train_gan, "muon", "fp32"),
        (train_gan, "classic", "bf16"),
        pytest.param(train_gan, "muon", "bf16", marks=pytest.mark.slow),
        (train_discriminator, "muon", "bf16"),
    ],
)
def test_resume_is_bit_identical(train, tmp_path, script, recipe, precision):
    flags = ["--recipe", recipe, "--epochs", 2, "--precision", precision, "--batch_size", 16]
    assert train(script, "whole", *flags)[0] == 0
    assert train(script, "parts", *flags, "--max_steps", 5)[0] == 0
    code, out, _ = train(script, "parts", *flags)
    assert code == 0
    assert "resumed after step 5" in out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("script", "signal_number"),
    [
        (train_gan, signal.SIGTERM),
        (train_discriminator, signal.SIGUSR1),
        (train_discriminator, signal.SIGINT),
    ],
)
def test_resume_after_a_signal_in_mid_epoch(train, tmp_path, script, signal_number):
    train(script, "whole", "--epochs", 2)
    handler = signal.getsignal(signal_number)
    with signal_at_pass(ONE_PASS_PER_STEP[script], 7, signal_number):
        code, out, _ = train(script, "parts", "--epochs", 2)
    assert code == 128 + signal_number
    assert signal.getsignal(signal_number) == handler
    assert f"stopped by {signal_number.name} after step 7" in out
    assert "step_000000007.pt" in out
    assert not (tmp_path / "parts" / "summary.json").exists()
    code, out, _ = train(script, "parts", "--epochs", 2)
    assert code == 0
    assert "resumed after step 7" in out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_resume_between_generator_steps(train, tmp_path):
    """Five steps an epoch, every second one with a generator step."""
    flags = ["--epochs", 2, "--recipe", "brief"]
    train(train_gan, "whole", *flags)
    for more in (["--max_steps", 5], []):
        train(train_gan, "parts", *flags, *more)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_more_epochs_with_the_classic_recipe(train, tmp_path):
    train(train_discriminator, "whole", "--epochs", 2, "--recipe", "classic")
    train(train_discriminator, "parts", "--epochs", 1, "--recipe", "classic")
    code, out, _ = train(train_discriminator, "parts", "--epochs", 2, "--recipe", "classic")
    assert code == 0
    assert "resumed after step 5" in out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
