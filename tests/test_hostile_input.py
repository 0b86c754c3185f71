"""Invalid files and names in every script: one line and exit code 2, or no effect."""

import io
import os
import sys

import pytest

import data_tools
import evaluate_gan
import visualization
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import export_model

QUICK = ["--limit_test", 60, "--steps", 3, "--device", "cpu", "--precision", "fp32"]


@pytest.mark.parametrize(
    ("odd", "dataset"),
    [(("$x^$", "../猫"), "folder"), (("a\ud800b", "c"), "shapes")],  # the third is no valid text
)
def test_odd_class_names(succeed, matplotlib_plots, tmp_path, odd, dataset):
    """They are never paths."""
    _, test = data_tools.load_shapes()
    names = [f"{odd[k % 2]}{k}" for k in range(10)]
    metadata = test.metadata() | {"class_names": names, "dataset": dataset}
    export_model(Discriminator(width=4), tmp_path / "d.safetensors", metadata)
    flags = ["--discriminator_with_G", tmp_path / "d.safetensors"]
    out = succeed(visualization, *QUICK, "--max_classification_output", *flags)
    assert "no discriminator trained without G: skipped" in out
    assert (tmp_path / "visualization/max_class_with_G.png").exists()
    export_model(Generator(width=4), tmp_path / "g.safetensors", metadata)
    for form in ("grid", "png"):
        flags = ["--generator", tmp_path / "g.safetensors", "--sample", 20, "--format", form]
        succeed(evaluate_gan, *flags, "--output_dir", tmp_path / form)
    folders = sorted(path.name for path in (tmp_path / "png/samples").iterdir())
    expected = ["0__x__0", "1____猫1"] if dataset == "folder" else ["0_0", "1_1"]
    assert folders[:2] == expected


def test_unprintable_path(tmp_path, monkeypatch):
    """Bytes that are not UTF-8, and a stdout that only encodes ASCII."""
    export_model(Generator(width=4), tmp_path / "g.safetensors", {"dataset": "shapes"})
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    folder = os.fsdecode(b"\xff\xfe")
    flags = ["--generator", "g.safetensors", "--sample", "4", "--output_dir", folder]
    assert evaluate_gan.main(flags) == 0
    assert b"\\udcff\\udcfe/sample_grid.png" in stdout.buffer.getvalue()
    assert os.listdir(os.fsencode(folder)) == [b"sample_grid.png"]
