"""--hold_out: evaluation on training images that are not trained on."""

import json

import pytest

import data_tools
import train_discriminator
import train_gan
from inside_cnn.engine.weights import load_model
from inside_cnn.metrics.classifier import evaluate
from processes import SMALL


@pytest.mark.parametrize("script", [train_discriminator, train_gan])
def test_accuracy_is_of_the_held_out_images(run_main, tmp_path, script):
    flags = ["--hold_out", 200, "--max_steps", 2, "--output_dir", tmp_path]
    code, out, _ = run_main(script, *SMALL, *flags)
    assert code == 0
    model, metadata = load_model(tmp_path / "discriminator.safetensors")
    train_set, _ = data_tools.load_shapes()
    _, held_out = train_set.hold_out(200)
    expected = evaluate(model, held_out.first(40), "fp32")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-5)
    assert metadata["hold_out"] == 200
    assert "held-out accuracy" in out
