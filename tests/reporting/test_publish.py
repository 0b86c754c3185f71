import json
import shutil

import pytest

import data_tools
import train_discriminator
import train_gan
from compare import assert_equal, records
from inside_cnn.data import pixels, shapes
from inside_cnn.engine.weights import BEFORE_ROUNDING, digest, from_8_bits, load_model, to_8_bits
from inside_cnn.metrics.classifier import evaluate
from inside_cnn.reporting import publish

TINY = ["--dataset", "shapes", "--limit_train", 60, "--limit_test", 60, "--width", 4]
SMALL = [*TINY, "--batch_size", 30, "--epochs", 1, "--device", "cpu", "--precision", "fp32"]
LOGS = {"config.json", "metrics.jsonl", "summary.json"}


@pytest.fixture
def classifier(run_main, tmp_path):
    flags = ["--output_dir", tmp_path / "run", "--data_dir", tmp_path / "data"]
    assert run_main(train_discriminator, *SMALL, *flags)[0] == 0
    return tmp_path / "run"


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_published_classifier(run_main, classifier, tmp_path):
    target = tmp_path / "target"
    assert run_main(publish, classifier, target)[0] == 0
    assert names_in(target) == LOGS | {"curves.png", "discriminator.safetensors"}
    assert records(target) == records(classifier)
    assert str(tmp_path) not in (target / "config.json").read_text()
    assert json.loads((target / "config.json").read_text())["settings"]["width"] == 4

    # The accuracy is that of the published weights, not of those before rounding.
    model, metadata = load_model(target / "discriminator.safetensors")
    exact, _ = load_model(classifier / "discriminator.safetensors")
    assert_equal(dict(model.state_dict()), from_8_bits(to_8_bits(exact.state_dict())))
    assert metadata[BEFORE_ROUNDING] == digest(exact) != digest(model)
    _, test_set = data_tools.load_shapes()
    metrics = evaluate(model, test_set, "fp32")
    assert metadata["test_images"] == len(test_set) == 2000
    assert metadata["test_accuracy"] == metrics["test_accuracy"]
    assert metadata["test_loss"] == pytest.approx(metrics["test_loss"])
    assert pixels.mean_image(metadata).shape == (1, 3, 32, 32)

    # Publishing again replaces the run, and no other file.
    (target / "samples").mkdir()
    (target / "samples/007.png").touch()
    (target / "notes.txt").touch()
    assert run_main(publish, classifier, target, "--skip_curves")[0] == 0
    assert names_in(target) == {*LOGS, "discriminator.safetensors", "notes.txt"}


def test_published_gan_with_sample_grids(run_main, tmp_path):
    run, target = tmp_path / "run", tmp_path / "target"
    assert run_main(train_gan, *SMALL, "--output_dir", run)[0] == 0
    assert run_main(publish, run, target, "--sample_epochs", 0, 1)[0] == 0
    networks = {"discriminator.safetensors", "generator.safetensors"}
    grids = {"samples/000.png", "samples/001.png"}
    assert names_in(target) == LOGS | networks | grids | {"curves.png"}
    generator, metadata = load_model(target / "generator.safetensors", kind="generator")
    assert metadata["class_names"] == list(shapes.CLASS_NAMES)
    exact, _ = load_model(run / "generator.safetensors")
    assert_equal(dict(generator.state_dict()), from_8_bits(to_8_bits(exact.state_dict())))


def test_invalid_arguments_change_nothing(refused, classifier, tmp_path):
    target = tmp_path / "target"
    assert "not the folder of a finished run" in refused(publish, tmp_path / "nothing", target)
    assert "007.png" in refused(publish, classifier, target, "--sample_epochs", 7)
    (classifier / "curves.png").rename(tmp_path / "curves.png")
    assert "curves.png" in refused(publish, classifier, target)
    assert not target.exists()
    (tmp_path / "curves.png").rename(classifier / "curves.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/weights.safetensors").write_text("precious")
    message = "not the folder of a published run"
    assert message in refused(publish, classifier, tmp_path / "other")
    assert names_in(tmp_path / "other") == {"weights.safetensors"}

    # The arguments in the wrong order: a published folder first, the user's run second.
    shutil.copytree(classifier, target, ignore=shutil.ignore_patterns("checkpoints"))
    before = {path: path.read_bytes() for path in classifier.rglob("*") if path.is_file()}
    assert message in refused(publish, target, classifier)
    assert {path: path.read_bytes() for path in before} == before


def test_held_out_images_are_the_test_set_of_their_run(run_main, tmp_path):
    flags = ["--hold_out", 100, "--output_dir", tmp_path / "run"]
    assert run_main(train_discriminator, *SMALL, *flags)[0] == 0
    assert run_main(publish, tmp_path / "run", tmp_path / "target")[0] == 0
    model, metadata = load_model(tmp_path / "target" / "discriminator.safetensors")
    _, held_out = data_tools.load_shapes()[0].hold_out(100)
    assert metadata["test_loss"] == pytest.approx(evaluate(model, held_out, "fp32")["test_loss"])
    assert metadata["test_images"] == 100
