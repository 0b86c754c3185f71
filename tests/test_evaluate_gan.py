import io
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import evaluate_gan
from discriminator import Discriminator
from faults import no_room_for
from generator import Generator
from inside_cnn.data.shapes import CLASS_NAMES
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.metrics import classifier, inception, memorization, sampling, scores
from inside_cnn.reporting.page import contents_of

FLAGS = ["--generator", "run", "--judge", "judge.safetensors", "--device", "cpu"]
FLAGS += ["--precision", "fp32"]
SMALL = ["--samples", 40, "--limit_train", 40, "--limit_test", 40]
FOLDER = Path("evaluation")


@pytest.fixture
def evaluate(succeed, monkeypatch):
    """Score a generator of the shapes by a judge, with few subsets and baseline images."""
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 2)
    monkeypatch.setattr(memorization, "BASELINE_IMAGES", 20)
    torch.manual_seed(0)
    metadata = {"dataset": "shapes", "step": 7, "class_names": list(CLASS_NAMES)}
    export_model(Discriminator(6), "judge.safetensors", metadata)
    generator = Generator(4)
    generator(torch.randn(64, 100))
    Path("run").mkdir()
    export_model(generator, "run/generator.safetensors", metadata)
    return partial(succeed, evaluate_gan, *FLAGS)


def read_result():
    return json.loads((FOLDER / "evaluation.json").read_text())


def files():
    return {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}


def samples_of(labels):
    """The samples of the run's generator with --seed 0, in float32."""
    generator, _ = load_model("run/generator.safetensors")
    return sampling.generate(generator, sampling.latents_of(labels, 100, seed=0))


def images_in(path, top, columns=10, rows=10):
    """The images of a grid by save_image_grid, uint8 (rows * columns, 3, 32, 32)."""
    picture = pil_to_tensor(Image.open(path).convert("RGB"))
    places = [(top + 100 * r, 4 + 100 * c) for r in range(rows) for c in range(columns)]
    return torch.stack([picture[:, y : y + 96 : 3, x : x + 96 : 3] for y, x in places])


# ------------------------------------------------------------------------------ samples


@pytest.mark.parametrize("form", ["png", "npz", "grid"])
def test_sampling_only(evaluate, form):
    assert "12 samples" in evaluate("--sample", 12, "--format", form, "--labels", 3, 5)
    if form == "png":
        assert {p.name for p in (FOLDER / "samples").iterdir()} == {"3_triangle", "5_cross"}
        paths = sorted(FOLDER.rglob("*.png"), key=lambda path: path.name)
        images = torch.stack([pil_to_tensor(Image.open(path)) for path in paths])
    elif form == "npz":
        with np.load(FOLDER / "samples.npz") as arrays:
            assert arrays["arr_1"].tolist() == [3, 5] * 6
            images = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2)
    else:
        images = images_in(FOLDER / "sample_grid.png", top=26, columns=2, rows=6)
    assert torch.equal(images, samples_of(sampling.sample_labels(12, [3, 5])))


def test_unprintable_path(monkeypatch):
    """Bytes that are not UTF-8, and a stdout that only encodes ASCII."""
    export_model(Generator(width=4), "g.safetensors", {"dataset": "shapes"})
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    folder = os.fsdecode(b"\xff\xfe")
    flags = ["--generator", "g.safetensors", "--sample", "4", "--output_dir", folder]
    assert evaluate_gan.main(flags) == 0
    assert b"\\udcff\\udcfe/sample_grid.png" in stdout.buffer.getvalue()
    assert os.listdir(os.fsencode(folder)) == [b"sample_grid.png"]


# ------------------------------------------------------------------------------ scores


def test_scores_and_figures(evaluate, matplotlib_plots):
    out = evaluate("--samples", 120, "--limit_train", 100, "--limit_test", 120)
    result = read_result()
    table = result["scores"]
    names = ["test images", "noisy training images", "samples", "untrained generator"]
    assert list(table) == names
    for row in table.values():
        assert row["images"] == 100  # the scores depend on the number of images
        assert all(np.isfinite(v) for v in row.values() if not isinstance(v, dict))
    assert table["test images"]["frechet_distance"] < table["samples"]["frechet_distance"]
    assert f"{result['judge']['test_accuracy']:.2f} %" in out
    test_set = evaluate_gan.load_dataset("shapes")[1].first(120)
    judge, _ = load_model("judge.safetensors")
    accuracy = classifier.evaluate(judge, test_set, "fp32")["test_accuracy"]
    assert result["judge"]["test_accuracy"] == pytest.approx(accuracy, abs=0.01)  # over all 120
    assert result["reference"] == "100 training images"
    assert "inception" not in result
    distances = result["memorization"]["sets"]
    assert distances["samples"]["percentile_1"] <= distances["samples"]["percentile_50"]
    assert distances["test images"]["detected"] == pytest.approx(1, abs=0.5)

    real = evaluate_gan.load_dataset("shapes")[0].first(100)
    samples, (displayed, *_) = samples_of(real.labels), real.columns()
    grid = images_in(FOLDER / "samples.png", top=26, rows=len(displayed) // 10)
    assert torch.equal(grid, samples[displayed])
    assert torch.equal(images_in(FOLDER / "nearest.png", top=46, rows=1), grid[:10])


def test_interrupted_scoring_leaves_the_previous_result(evaluate, refused):
    """The new scores and figures replace the old ones together, at the end."""
    evaluate(*SMALL)
    before = files()
    with no_room_for("nearest_distances.png"):
        refused(evaluate_gan, *FLAGS, *SMALL, "--seed", 1)
    assert files() == before
    evaluate(*SMALL, "--seed", 1)
    after = files()
    assert after.keys() == before.keys()
    assert after["evaluation.json"] != before["evaluation.json"]
    assert after["samples.png"] != before["samples.png"]
    for form in ("grid", "npz", "png"):  # samples alone leave the scores unchanged
        evaluate("--sample", 30, "--labels", 3, "--truncation", 0.1, "--format", form)
    with_samples = files()
    assert with_samples.keys() - after.keys() == {"sample_grid.png", "samples.npz"}
    assert with_samples.items() >= after.items()


def test_inception_is_omitted_without_network(evaluate, monkeypatch, tmp_path):
    monkeypatch.setattr(inception, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    out = evaluate("--inception", *SMALL)
    (line,) = (line for line in out.splitlines() if line.startswith("IS, FID and KID are omitted"))
    assert "--inception FILE" in line
    assert "download" in read_result()["inception"]["left_out"]


class FirstPixels(inception.Inception):
    """Some pixels in place of the network's features."""

    note = " (not the standard FID network)"

    def __init__(self, weights, device):
        self.checksum, self.has_last_layer = str(weights), False

    def features(self, images, title):
        return images.flatten(1)[:, ::400].float()


def test_inception_by_both_protocols(evaluate, monkeypatch, tmp_path):
    """As many samples as real images are compared."""
    monkeypatch.setattr(inception, "Inception", FirstPixels)
    limits = ["--samples", 20, "--limit_train", 24, "--limit_test", 20]
    out = evaluate("--inception", "weights.pth", *limits)
    note = FirstPixels.note
    assert f"samples against training images{note}: " in out
    entry = read_result()["inception"]
    assert (entry["precision"], entry["weights_sha256"]) == ("fp32", "weights.pth")
    rows = entry["scores"]
    assert {name: (row["images"], row["reference_images"]) for name, row in rows.items()} == {
        f"samples against test images{note}": (20, 20),
        f"test images against training images{note}": (20, 24),
        f"samples against training images{note}": (24, 24),
    }
    train, test = evaluate_gan.load_dataset("shapes")
    samples = samples_of(train.labels[:20])
    features = (images.flatten(1)[:, ::400].float() for images in (samples, test.images[:20]))
    expected = scores.distances(*features)["frechet_distance"]
    assert rows[f"samples against test images{note}"]["fid"] == pytest.approx(expected, rel=1e-9)


def test_truncation(evaluate):
    assert "truncation 0" not in evaluate(*SMALL)
    plain = read_result()
    assert "truncation 0.5" in evaluate(*SMALL, "--truncation", 0.5)
    truncated = read_result()
    assert "truncation" not in plain
    assert truncated["truncation"] == 0.5
    assert plain["scores"]["samples"] != truncated["scores"]["samples"]
    assert plain["scores"]["test images"] == truncated["scores"]["test images"]

    places = dict.fromkeys(("baseline", "visualization"), Path("nothing"))
    page = contents_of(places | {"gan": Path("run"), "evaluation": FOLDER})  # of the report
    assert page["truncation"] == ", truncation 0.5"
    assert "class consistency of samples, truncation 0.5" in dict(page["cards"])


def test_invalid_input(evaluate, refused):
    def call(*more):
        return refused(evaluate_gan, *FLAGS, *more)

    Path("run/config.json").touch()
    export_model(Generator(4, latent_dim=5), "short.safetensors", {"dataset": "shapes"})
    assert "holds a discriminator, not a generator" in call("--generator", "judge.safetensors")
    assert "no room for 10 classes" in call("--generator", "short.safetensors")
    assert "at most 1000" in call("--sample", 1001)
    assert "--labels 10" in call("--sample", 5, "--labels", 10)
    assert "--labels has no effect without --sample" in call("--labels", 1)
    assert "--format has no effect without --sample" in call("--format", "png")
    assert "--inception has no effect with --sample" in call("--sample", 5, "--inception")
    assert "at least 20" in call("--samples", 19)
    assert "too few" in call("--limit_test", 19)
    assert "holds no weights of torch-fidelity" in call("--inception", "judge.safetensors")
    assert "holds a training run" in call("--output_dir", "run")
    (FOLDER / "samples").mkdir(parents=True)
    (FOLDER / "samples/old.png").touch()
    assert "is not empty" in call("--sample", 5, "--format", "png")
