"""A resumed run is bit-identical to an uninterrupted one; settings with which it resumes."""

import json
import signal

import pytest
import torch

import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.device import pick_precision
from inside_cnn.training.run_folder import recorded_precision
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


EPOCHS = ["--epochs", 2]


def test_auto_precision_is_that_of_the_run(train, tmp_path):
    """The job may be queued again for a node with another CPU."""
    (other,) = {"fp32", "bf16"} - {pick_precision("auto", torch.device("cpu"))}
    train(train_discriminator, "run", *EPOCHS, "--precision", other, "--max_steps", 2)
    assert recorded_precision(tmp_path / "run") == other
    flags = [*EPOCHS, "--precision", "auto", "--max_steps", 3]
    code, out, _ = train(train_discriminator, "run", *flags)
    assert code == 0
    assert f"--precision auto: {other}" in out
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["precision"] == other


def test_only_a_saved_run_has_a_precision(tmp_path):
    (tmp_path / "config.json").write_text('{"settings": {"precision": "bf16"}}')
    assert recorded_precision(tmp_path) is None
    (tmp_path / "summary.json").touch()
    assert recorded_precision(tmp_path) == "bf16"


def test_a_longer_run_that_ends_without_a_record_has_no_metrics_of_an_earlier_step(train, tmp_path):
    flags = [*EPOCHS, "--save_every_minutes", 0]
    train(train_gan, "run", *flags, "--max_steps", 1)
    summary = tmp_path / "run/summary.json"
    assert json.loads(summary.read_text()).keys() >= {"critic_gap", "lr"}
    for _ in range(2):
        train(train_gan, "run", *flags, "--max_minutes", 0)
    train(train_gan, "run", *flags, "--max_steps", 3)
    metrics = json.loads(summary.read_text())
    assert (metrics["step"], metrics["epochs_done"]) == (3, 0.6)
    assert not metrics.keys() & {"critic_gap", "lr"}


def test_a_recipe_equals_its_values(train):
    recipe, sizes = train_gan.RECIPES["brief"], ("width", "batch_size", "epochs")
    flags = [text for name in recipe.keys() - sizes for text in (f"--{name}", recipe[name])]
    train(train_gan, "run", *EPOCHS, "--recipe", "brief", "--max_steps", 2)
    code, out, _ = train(train_gan, "run", *EPOCHS, *flags, "--max_steps", 3)
    assert code == 0
    assert "resumed after step 2" in out


def test_a_limit_of_all_images_is_none(run_main, tmp_path):
    flags = [*SMALL, "--output_dir", tmp_path, "--limit_train"]
    run_main(train_discriminator, *flags, 30_000, "--max_steps", 1)
    out = run_main(train_discriminator, *flags, 20_000, "--max_steps", 2)[1]
    assert "resumed after step 1" in out
