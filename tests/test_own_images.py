"""The user's own images in every script: other numbers of classes, and mismatches."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import data_tools
import evaluate_gan
import explore
import report
import train_discriminator
import train_gan
import visualization
from discriminator import Discriminator
from generator import Generator
from inside_cnn.data import cifar10
from inside_cnn.data.folder import load_folder
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.explorer.page import contents_of
from inside_cnn.interpretability.network import TRAININGS
from own_images import write_pictures

MACHINE = ["--device", "cpu", "--precision", "fp32"]
# With spaces, dots, other alphabets, a sign that matplotlib parses, and more letters than fit.
SEVEN = ["disc", "a ring", "no. 3 (square)", "треугольник", "$star^2$"]
SEVEN += ["a cross of many words", "心"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """make(number of classes): writes a folder of pictures and returns the flags that select it."""
    monkeypatch.setattr("inside_cnn.metrics.scores.KERNEL_SUBSETS", 2)

    def make(classes):
        folder = tmp_path / "mine"
        names = SEVEN if classes == len(SEVEN) else [f"class {k}" for k in range(classes)]
        count = 30 if classes < 10 else 6 * classes
        for part in ("train", "test"):
            rng = torch.Generator().manual_seed(len(part))
            images = torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
            write_pictures(folder / part, images, torch.arange(count) % classes, names)
        return ["--dataset", "folder", "--data_dir", folder]

    return make


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("classes", [2, slow(7), slow(64)])
def test_every_script(mine, succeed, request, classes):
    if classes > 2:  # many or odd names
        request.getfixturevalue("matplotlib_plots")
    data = mine(classes)
    assert f"of {classes} classes in" in succeed(data_tools, *data)
    small = [*MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 24]
    succeed(train_discriminator, *data, *small)
    succeed(train_gan, *data, *small, "--evaluate_every", 1)
    _, test = load_folder(data[-1])
    names = list(test.class_names)
    assert len(names) == classes
    for file in ("baseline/discriminator", "gan/discriminator", "gan/generator"):
        _, metadata = load_model(f"output/{file}.safetensors")
        assert (metadata["class_names"], metadata["num_classes"]) == (names, classes)
        assert metadata["dataset"] == "folder"

    succeed(visualization, *data, *MACHINE, "--steps", 1, "--study_images", 1)
    summary = json.loads(Path("visualization/summary.json").read_text())
    for metrics in summary.values():
        assert list(metrics["max_classification_output"]) == names
        assert metrics.keys() >= {"perturbation", "strength_study", "max_features", "layers"}

    out = succeed(evaluate_gan, *data, *MACHINE, "--samples", 384)
    assert "warning: scores of" in out
    result = json.loads(Path("evaluation/evaluation.json").read_text())
    assert result["judge"]["path"] == "output/baseline/discriminator.safetensors"
    assert list(result["scores"]["test images"]["per_class_consistency"]) == names
    sample = ["--sample", 2 * classes, "--format", "png", "--output_dir", "samples"]
    succeed(evaluate_gan, *MACHINE, *sample)
    succeed(report)
    assert "class consistency" in Path("report.html").read_text()

    contents = contents_of(dict.fromkeys([*TRAININGS, "generator"]), data[-1])
    assert contents["classes"] == names
    assert len(contents["gallery"]["labels"]) == min(len(test), 200)


@pytest.mark.parametrize(
    ("odd", "dataset"),
    [(("$x^$", "../猫"), "folder"), (("a\ud800b", "c"), "shapes")],  # the third is no valid text
)
def test_odd_class_names(succeed, matplotlib_plots, odd, dataset):
    """They are never paths."""
    names = [f"{odd[k % 2]}{k}" for k in range(10)]
    metadata = data_tools.load_shapes()[1].metadata()
    metadata |= {"class_names": names, "dataset": dataset}
    export_model(Discriminator(width=4), "d.safetensors", metadata)
    flags = ["--discriminator_with_G", "d.safetensors", "--steps", 3]
    out = succeed(visualization, *MACHINE, *flags, "--max_classification_output")
    assert "no discriminator trained without G: skipped" in out
    assert Path("visualization/max_class_with_G.png").exists()
    export_model(Generator(width=4), "g.safetensors", metadata)
    for form in ("grid", "png"):
        flags = ["--generator", "g.safetensors", "--sample", 20, "--format", form]
        succeed(evaluate_gan, *flags, "--output_dir", form)
    folders = sorted(path.name for path in Path("png/samples").iterdir())
    expected = ["0__x__0", "1____猫1"] if dataset == "folder" else ["0_0", "1_1"]
    assert folders[:2] == expected


@pytest.mark.parametrize("script", [data_tools, train_discriminator, train_gan])
def test_missing_cifar10_is_refused(refused, tmp_path, monkeypatch, script):
    """A training does not use the shapes instead."""
    monkeypatch.setattr(cifar10, "URLS", ["http://127.0.0.1:9/none"])
    message = refused(script, "--data_dir", tmp_path / "data")
    assert "use --data_dir or --dataset shapes" in message
    assert not (tmp_path / "output").exists()


# ------------------------------------------------------------------------------ runs


def test_run_identifies_its_images(mine, succeed, refused, tmp_path):
    flags = [*mine(2), *MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 24]
    succeed(train_discriminator, *flags)
    moved = tmp_path / "moved"
    (tmp_path / "mine").rename(moved)
    flags[3] = moved
    assert "finished already" in succeed(train_discriminator, *flags)
    (moved / "train/class 0/000000.png").unlink()
    assert "data_sha256 was" in refused(train_discriminator, *flags)


def test_short_latents_are_refused(mine, refused):
    flags = [*mine(2), *MACHINE, "--batch_size", 24, "--latent_dim", 17]
    assert "with 2 classes at least 18" in refused(train_gan, *flags)


# ------------------------------------------------------------------------------ mismatches


def test_networks_of_other_classes_are_refused(mine, refused):
    data, metadata = mine(2), {"dataset": "folder", "class_names": ["cat", "dog"]}
    export_model(Discriminator(4, num_classes=2), "d.safetensors", metadata)
    export_model(Generator(4), "g.safetensors", metadata)
    judge = ["--judge", "d.safetensors"]
    train = [*MACHINE, "--width", 4, "--batch_size", 24, "--evaluate_every", 1]
    for script, *flags in (
        (visualization, "--discriminator_without_G", "d.safetensors", "--attribution"),
        (explore, "--discriminator_without_G", "d.safetensors", "--no_browser"),
        (evaluate_gan, "--generator", "g.safetensors", *judge),
        (train_gan, *train, *judge),
    ):
        message = refused(script, *data, *flags)
        assert "(cat, dog)" in message
        assert "(class 0, class 1)" in message
    metadata["class_names"] = ["cat", "cow", "dog"]
    export_model(Discriminator(4, num_classes=3), "b.safetensors", metadata)
    flags = ["--discriminator_without_G", "d.safetensors", "--max_classification_output"]
    message = refused(visualization, *flags, "--discriminator_with_G", "b.safetensors")
    assert "d.safetensors: cat, dog; b.safetensors: cat, cow" in message  # without images
