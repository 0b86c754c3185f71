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
    ("script", "recipe", "precision", "signal_number", "step"),
    [
        # Every second step has one of the generator: after step 5, the next one is step 6.
        (train_gan, "brief", "fp32", signal.SIGTERM, 6),
        (train_gan, "classic", "bf16", signal.SIGINT, 7),
        (train_discriminator, "muon", "bf16", signal.SIGUSR1, 7),
        pytest.param(train_gan, "muon", "bf16", signal.SIGTERM, 7, marks=pytest.mark.slow),
    ],
)
def test_resume_is_bit_identical(train, tmp_path, script, recipe, precision, signal_number, step):
    """After a stop at the end of an epoch and a signal in the second one."""
    flags = ["--recipe", recipe, "--epochs", 2, "--precision", precision, "--batch_size", 16]
    assert train(script, "whole", *flags)[0] == 0
    assert train(script, "parts", *flags, "--max_steps", 5)[0] == 0
    handler = signal.getsignal(signal_number)
    passes = 1 if recipe == "brief" else step - 5
    with signal_at_pass(ONE_PASS_PER_STEP[script], passes, signal_number):
        code, out, _ = train(script, "parts", *flags)
    assert code == 128 + signal_number
    assert signal.getsignal(signal_number) == handler
    assert "resumed after step 5" in out
    assert f"stopped by {signal_number.name} after step {step}" in out
    assert f"step_{step:09d}.pt" in out
    assert not (tmp_path / "parts" / "summary.json").exists()
    code, out, _ = train(script, "parts", *flags)
    assert code == 0
    assert f"resumed after step {step}" in out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_more_epochs_with_the_classic_recipe(train, tmp_path):
    train(train_discriminator, "whole", "--epochs", 2, "--recipe", "classic")
    train(train_discriminator, "parts", "--epochs", 1, "--recipe", "classic")
    code, out, _ = train(train_discriminator, "parts", "--epochs", 2, "--recipe", "classic")
    assert code == 0
    assert "resumed after step 5" in out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
