import json
import shutil

import pytest
import torch

import data_tools
import train_discriminator
import train_gan
from compare import assert_equal, records
from discriminator import Discriminator
from engine.weights import export_model, from_8_bits, load_model, to_8_bits
from image_sets import shapes
from metrics.classifier import evaluate
from reporting import publish

QUICK = ["--device", "cpu"]
TINY = ["--dataset", "shapes", "--limit_train", 60, "--limit_test", 60, "--width", 4]
SMALL = [*TINY, "--batch_size", 30, "--epochs", 1, *QUICK, "--precision", "fp32"]


@pytest.fixture
def baseline(run_main, tmp_path):
    flags = ["--output_dir", tmp_path / "run", "--data_dir", tmp_path / "a place of mine"]
    assert run_main(train_discriminator, *SMALL, *flags)[0] == 0
    return tmp_path / "run"


def test_a_classifier(run_main, baseline, tmp_path):
    code, _, _ = run_main(publish, baseline, tmp_path / "kept", *QUICK)
    assert code == 0
    kept = tmp_path / "kept"
    assert {path.name for path in kept.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "curves.png",
        "summary.json",
        "discriminator.safetensors",
    }
    assert records(kept) == records(baseline)
    assert str(tmp_path) not in (kept / "config.json").read_text()
    settings = json.loads((kept / "config.json").read_text())["settings"]
    assert settings["width"] == 4
    small = (kept / "discriminator.safetensors").stat().st_size
    large = (baseline / "discriminator.safetensors").stat().st_size
    assert small < 0.8 * large

    # The stated accuracy is that of the file, not of the weights before rounding.
    model, metadata = load_model(kept / "discriminator.safetensors")
    exact, _ = load_model(baseline / "discriminator.safetensors")
    assert_equal(dict(model.state_dict()), from_8_bits(to_8_bits(exact.state_dict())))
    _, test_set = data_tools.load_shapes()
    metrics = evaluate(model, test_set, "fp32")
    assert metadata["test_images"] == len(test_set) == 2000
    assert metadata["test_accuracy"] == metrics["test_accuracy"]
    assert metadata["test_loss"] == pytest.approx(metrics["test_loss"])
    assert data_tools.mean_image(metadata).shape == (1, 3, 32, 32)


def test_without_weights_and_curves(run_main, baseline, tmp_path):
    assert run_main(publish, baseline, tmp_path / "kept", *QUICK)[0] == 0
    assert run_main(publish, baseline, tmp_path / "kept", "--skip", "weights", "curves")[0] == 0
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {"config.json", "metrics.jsonl", "summary.json"}
    assert records(tmp_path / "kept") == records(baseline)


def test_a_pair_with_its_sample_grids(run_main, tmp_path):
    assert run_main(train_gan, *SMALL, "--output_dir", tmp_path / "run")[0] == 0
    flags = [*QUICK, "--sample_epochs", 0, 1]
    assert run_main(publish, tmp_path / "run", tmp_path / "kept", *flags)[0] == 0
    kept = tmp_path / "kept"
    assert {path.name for path in (kept / "samples").iterdir()} == {"000.png", "001.png"}
    generator, metadata = load_model(kept / "generator.safetensors", kind="generator")
    assert metadata["class_names"] == list(shapes.CLASS_NAMES)
    exact, _ = load_model(tmp_path / "run" / "generator.safetensors")
    rounded = from_8_bits(to_8_bits(exact.state_dict()))
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, rounded[name]), name
    latents = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    difference = (generator(latents) - exact(latents)).abs().mean().item() * 127.5
    assert 0 < difference < 2
    told = float(metadata["mean_difference_in_8_bits"].removesuffix(" of 255"))
    assert told == pytest.approx(difference, abs=0.3)


def test_bad_input(refused, baseline, tmp_path):
    assert "no finished run" in refused(publish, tmp_path / "nothing", tmp_path / "kept")
    assert "other than" in refused(publish, baseline, baseline)
    flags = [*QUICK, "--sample_epochs", 7]
    assert "007.png" in refused(publish, baseline, tmp_path / "kept", *flags)
    (tmp_path / "file").write_text("kept")
    assert "cannot copy" in refused(publish, baseline, tmp_path / "file", *QUICK)
    kept = tmp_path / "kept"
    for content in ("{", "{}", '{"settings": null}', '{"settings": "x"}', "[]"):
        (baseline / "config.json").write_text(content)
        assert "damaged" in refused(publish, baseline, kept, *QUICK)
    (baseline / "config.json").write_text('{"settings": {}}')
    weights = baseline / "discriminator.safetensors"
    export_model(Discriminator(width=2), weights, {})
    assert "does not name the dataset" in refused(publish, baseline, kept, *QUICK)
    export_model(Discriminator(2, num_classes=3), weights, {"dataset": "shapes"})
    assert "3 classes" in refused(publish, baseline, kept, *QUICK)
    assert not kept.exists()


def test_publishing_again_leaves_nothing_of_the_last(run_main, baseline, tmp_path):
    kept = tmp_path / "kept"
    assert run_main(publish, baseline, kept, *QUICK)[0] == 0
    (kept / "samples").mkdir()
    (kept / "samples/007.png").touch()
    (kept / "generator.safetensors").touch()
    assert run_main(publish, baseline, kept, *QUICK)[0] == 0
    assert not list((kept / "samples").iterdir())
    assert not (kept / "generator.safetensors").exists()


def test_files_of_another_folder_stay(run_main, baseline, tmp_path):
    """A target that this command did not make keeps its sample grids and weights."""
    other = tmp_path / "other"
    (other / "samples").mkdir(parents=True)
    for name in ("samples/007.png", "generator.safetensors"):
        (other / name).write_text("precious")
    assert run_main(publish, baseline, other, *QUICK)[0] == 0
    assert (other / "samples/007.png").read_text() == "precious"
    assert (other / "generator.safetensors").read_text() == "precious"


def test_a_folder_with_a_run_is_not_written_over(refused, baseline, tmp_path):
    """The arguments the wrong way round: a published folder first, one's own run second."""
    published = tmp_path / "published"
    shutil.copytree(baseline, published, ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    before = {path: path.read_bytes() for path in baseline.rglob("*") if path.is_file()}
    assert "holds a run of your own" in refused(publish, published, baseline, *QUICK)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("place", ["run", "run/metrics.jsonl", "kept", "kept/config.json"])
def test_links_are_not_followed(refused, baseline, tmp_path, place):
    elsewhere, link = tmp_path / "elsewhere", tmp_path / place
    if place == "kept":
        elsewhere.mkdir()
    else:
        link.parent.mkdir(exist_ok=True)
        link.rename(elsewhere) if link.exists() else elsewhere.write_text("precious")
    link.symlink_to(elsewhere)
    told = refused(publish, baseline, tmp_path / "kept", *QUICK)
    assert str(link) in told
    if place.startswith("kept"):
        assert not elsewhere.is_dir() or not list(elsewhere.iterdir())
        assert elsewhere.is_dir() or elsewhere.read_text() == "precious"


@pytest.mark.parametrize("missing", ["metrics.jsonl", "curves.png"])
def test_nothing_is_written_where_a_source_is_missing(refused, baseline, tmp_path, missing):
    (baseline / missing).unlink()
    assert missing in refused(publish, baseline, tmp_path / "kept", *QUICK)
    assert not (tmp_path / "kept").exists()


def test_a_run_with_held_out_images_is_evaluated_on_them(run_main, tmp_path):
    flags = ["--hold_out", 100, "--output_dir", tmp_path / "run"]
    assert run_main(train_discriminator, *SMALL, *flags)[0] == 0
    assert run_main(publish, tmp_path / "run", tmp_path / "kept", *QUICK)[0] == 0
    model, metadata = load_model(tmp_path / "kept" / "discriminator.safetensors")
    _, held_out = data_tools.load_shapes()[0].hold_out(100)
    assert metadata["test_loss"] == pytest.approx(evaluate(model, held_out, "fp32")["test_loss"])
    assert metadata["test_images"] == 100
