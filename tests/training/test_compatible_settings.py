"""A run resumes with settings that mean the same."""

import json

import pytest
import torch

import train_discriminator
import train_gan
from inside_cnn.core.device import pick_precision
from inside_cnn.training.run_folder import recorded_precision
from processes import SMALL

RUN = [*SMALL, "--limit_test", 20, "--epochs", 2]


@pytest.fixture
def train(run_main, tmp_path):
    def call(script, *flags):
        return run_main(script, *RUN, "--output_dir", tmp_path / "run", *flags)

    return call


def test_auto_precision_is_that_of_the_run(train, tmp_path):
    """The job may be queued again for a node with another CPU."""
    (other,) = {"fp32", "bf16"} - {pick_precision("auto", torch.device("cpu"))}
    train(train_discriminator, "--precision", other, "--max_steps", 2)
    assert recorded_precision(tmp_path / "run") == other
    code, out, _ = train(train_discriminator, "--precision", "auto", "--max_steps", 3)
    assert code == 0
    assert f"--precision auto: {other}" in out
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["precision"] == other


@pytest.mark.parametrize("saved", [False, True])
def test_only_a_saved_run_has_a_precision(tmp_path, saved):
    (tmp_path / "config.json").write_text('{"settings": {"precision": "fp16"}}')
    if saved:
        (tmp_path / "summary.json").touch()
    assert recorded_precision(tmp_path) is None


def test_a_recipe_equals_its_values(train):
    recipe, sizes = train_gan.RECIPES["brief"], ("width", "batch_size", "epochs")
    flags = [text for name in recipe.keys() - sizes for text in (f"--{name}", recipe[name])]
    train(train_gan, "--recipe", "brief", "--max_steps", 2)
    code, out, _ = train(train_gan, *flags, "--max_steps", 3)
    assert code == 0
    assert "resumed after step 2" in out


def test_a_limit_of_all_images_is_none(run_main, tmp_path):
    def train(*flags):
        flags = ["--dataset", "shapes", "--width", 2, "--batch_size", 16, "--device", "cpu", *flags]
        flags += ["--limit_test", 20, "--precision", "fp32", "--output_dir", tmp_path]
        return run_main(train_discriminator, *flags)

    train("--max_steps", 1)
    assert "resumed after step 1" in train("--max_steps", 2, "--limit_train", 20_000)[1]
