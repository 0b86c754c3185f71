"""--hold_out: evaluation on training images that are not trained on."""

import json

import pytest
import torch

import data_tools
import train_discriminator
import train_gan
from discriminator import Discriminator
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.metrics.classifier import evaluate

SMALL = [
    *("--dataset", "shapes", "--hold_out", 200, "--width", 4, "--batch_size", 100),
    *("--epochs", 1, "--max_steps", 2, "--device", "cpu", "--precision", "fp32"),
]


@pytest.mark.parametrize("script", [train_discriminator, train_gan])
def test_accuracy_is_of_the_held_out_images(run_main, tmp_path, script):
    code, out, _ = run_main(script, *SMALL, "--output_dir", tmp_path)
    assert code == 0
    model, metadata = load_model(tmp_path / "discriminator.safetensors")
    train_set, _ = data_tools.load_shapes()
    _, held_out = train_set.hold_out(200)
    expected = evaluate(model, held_out, "fp32")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-5)
    assert metadata["hold_out"] == 200
    assert "held-out accuracy" in out


def test_a_judge_trained_on_the_held_out_images_is_refused(refused, run_main, tmp_path):
    torch.manual_seed(0)
    judge = tmp_path / "judge.safetensors"
    flags = [*SMALL, "--evaluate_every", 1, "--judge", judge, "--output_dir", tmp_path / "run"]
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    assert "trained with --hold_out 0, not 200" in refused(train_gan, *flags)
    export_model(Discriminator(4), judge, {"dataset": "shapes", "hold_out": 200})
    assert run_main(train_gan, *flags)[0] == 0
