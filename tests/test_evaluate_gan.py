import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import evaluate_gan
from discriminator import Discriminator
from engine.weights import export_model
from generator import Generator
from metrics import inception, sampling, scores
from metrics.scores import Judge

MACHINE = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A judge and a generator of the built-in set, as exports; few draws of the kernel distance."""
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 2)
    torch.manual_seed(0)
    about = {"dataset": "shapes", "step": 7, "class_names": [f"c{k}" for k in range(10)]}
    export_model(Discriminator(6), tmp_path / "judge.safetensors", about)
    generator = Generator(4)
    generator(torch.randn(64, 100))
    run = tmp_path / "run"
    run.mkdir()
    export_model(generator, run / "generator.safetensors", about)
    export_model(Generator(4), run / "generator_raw.safetensors", about)
    return tmp_path


@pytest.fixture
def evaluate(run_main, weights):
    def call(*more):
        flags = ["--generator", weights / "run", "--judge", weights / "judge.safetensors"]
        return run_main(
            evaluate_gan, *flags, *MACHINE, "--output_dir", weights / "evaluation", *more
        )

    return call


def test_scores_and_figures(evaluate, weights):
    code, out, err = evaluate("--samples", 1000, "--limit_train", 1500, "--limit_test", 1000)
    assert code == 0, err
    folder = weights / "evaluation"
    found = json.loads((folder / "evaluation.json").read_text())
    table = found["scores"]
    assert list(table) == [
        *("test images", "noisy training images", "samples", "untrained generator"),
    ]
    for row in table.values():
        for field in evaluate_gan.COLUMNS:
            assert np.isfinite(row[field])
    assert table["test images"]["frechet_distance"] < table["samples"]["frechet_distance"]
    assert f"{found['judge']['test_accuracy']:.2f} %" in out
    assert table["test images"]["class_consistency"] == found["judge"]["test_accuracy"]
    assert found["reference"] == "1,500 training images"
    assert "torch-fidelity" in found["arithmetic"]
    for name in ("samples", "nearest", "nearest_distances", "walk_within_classes"):
        assert imread(folder / f"{name}.png").std() > 0.01
    assert imread(folder / "walk_between_classes.png").std() > 0.01
    assert "inception" not in found
    near = found["nearest_training_images"]
    assert near["samples"]["percentile_1"] <= near["samples"]["percentile_50"]


def test_an_untrained_generator_draws_more_than_one_colour():
    torch.manual_seed(0)
    fresh = Generator(16)
    flat = sampling.draw(fresh, torch.randn(50, 100))
    drawn = sampling.draw(sampling.settle(fresh, torch.randn(500, 100)), torch.randn(50, 100))
    between_images = [images.double().std(0).mean() for images in (flat, drawn)]
    assert between_images[0] < 1 < 10 < between_images[1]


def test_class_names_are_never_paths(weights, run_main):
    about = {"dataset": "shapes", "class_names": ["../../x", *"bcdefghij"]}
    export_model(Generator(4), weights / "odd.safetensors", about)
    flags = ["--generator", weights / "odd.safetensors", "--output_dir", weights / "odd"]
    code, _, _ = run_main(evaluate_gan, *flags, *MACHINE, "--sample", 2, "--format", "png")
    assert code == 0
    assert sorted(p.name for p in (weights / "odd/samples").iterdir()) == ["0_______x", "1_b"]
    for names in (7, ["a"], [1] * 10):
        assert evaluate_gan.class_names_of({"class_names": names}) == list("0123456789")


def test_noise_has_the_stated_strength():
    grey = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    changed = evaluate_gan.noisy(grey, 0)
    assert changed.dtype == torch.uint8
    assert changed.double().std() == pytest.approx(8, rel=0.01)
    assert torch.equal(changed, evaluate_gan.noisy(grey, 0))
    assert evaluate_gan.noisy(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 0).max() < 60


@pytest.mark.parametrize("form", ["png", "npz", "grid"])
def test_sampling_only(evaluate, weights, form):
    code, out, _ = evaluate("--sample", 12, "--format", form, "--labels", 3, 5)
    assert code == 0
    assert "12 samples" in out
    folder = weights / "evaluation"
    if form == "png":
        assert sorted(p.name for p in (folder / "samples").iterdir()) == ["3_c3", "5_c5"]
        assert len(list(folder.rglob("*.png"))) == 12
    elif form == "npz":
        with np.load(folder / "samples.npz") as found:
            assert found["arr_1"].tolist() == [3, 5] * 6
    else:
        assert imread(folder / "samples.png").std() > 0.01


def test_seed_batch_size_and_raw_weights(evaluate, weights):
    def images(*more):
        (weights / "evaluation" / "samples.npz").unlink(missing_ok=True)
        assert evaluate("--sample", 20, "--format", "npz", *more)[0] == 0
        with np.load(weights / "evaluation" / "samples.npz") as found:
            return found["arr_0"]

    base = images()
    assert np.array_equal(base, images("--batch_size", 3))
    assert not np.array_equal(base, images("--seed", 1))
    assert not np.array_equal(base, images("--raw"))


@pytest.mark.slow
def test_real_images_teach_what_samples_of_an_untrained_generator_do_not():
    train, test = evaluate_gan.load_dataset("shapes")
    train, test = train.first(4000), test.first(500)
    args = evaluate_gan.parse_args(["--cas_epochs", "6", "--cas_width", "8"])
    machine = torch.device("cpu"), "fp32", "CAS"
    real = evaluate_gan.classification_accuracy(args, train.images, train.labels, test, *machine)
    noise = torch.randint(0, 256, train.images.shape, dtype=torch.uint8)
    nothing = evaluate_gan.classification_accuracy(args, noise, train.labels, test, *machine)

    assert real > 20
    assert nothing < 15


def test_parts_asked_for_by_flag(evaluate, weights, monkeypatch):
    """CAS; Inception without network; and the same number of images in every row of the table."""
    monkeypatch.setattr(inception, "get_dir", lambda: str(weights))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    sizes = ["--samples", 1200, "--limit_train", 1000, "--limit_test", 1100]
    cas = ["--cas", "--cas_epochs", 1, "--cas_width", 4]
    code, out, _ = evaluate("--inception", *cas, *sizes)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("IS, FID and KID left out"))
    assert "--inception FILE" in line
    found = json.loads((weights / "evaluation" / "evaluation.json").read_text())
    assert "download" in found["inception"]["left_out"]
    assert [row["images"] for row in found["scores"].values()] == [1000] * 4
    _, test = evaluate_gan.load_dataset("shapes")
    judge = Judge(weights / "judge.safetensors")
    classes = judge.look(test.images[:1100])[1]
    right = 100 * (classes == test.labels[:1100]).double().mean().item()
    assert found["judge"]["test_accuracy"] == pytest.approx(right, abs=0.01)  # over all 1,100
    assert set(found["classification_accuracy_score"]) == {"samples", "real images"}


def test_bad_input(refused, weights):
    def call(*flags):
        where = ["--generator", weights / "run", "--judge", weights / "judge.safetensors"]
        return refused(
            evaluate_gan, *where, *MACHINE, "--output_dir", weights / "evaluation", *flags
        )

    judge = weights / "judge.safetensors"
    (weights / "empty").mkdir()
    (weights / "training").mkdir()
    (weights / "training" / "config.json").touch()
    (weights / "bad.pth").write_text("no weights")
    about = {"dataset": "cifar10"}
    export_model(Discriminator(2), weights / "other.safetensors", about)
    assert "no weights at" in call("--generator", weights / "absent")
    assert "no weights at" in call("--generator", weights / "empty")
    assert "a generator is wanted" in call("--generator", judge)
    assert "a discriminator is wanted" in call("--judge", weights / "run/generator.safetensors")
    assert "no weights at" in call("--judge", weights / "absent")
    assert "trained on shapes, not on cifar10" in call("--dataset", "cifar10")
    assert "at most 1000" in call("--sample", 1001)
    assert "trained on cifar10, not on shapes" in call("--judge", weights / "other.safetensors")
    assert "--sample" in call("--sample", 0)
    assert "--labels 10" in call("--sample", 5, "--labels", 10)
    assert "--labels goes with --sample" in call("--labels", 1)
    assert "at least 1000" in call("--samples", 999)
    assert "too few" in call("--samples", 1000, "--limit_test", 999)
    assert "no readable weights file" in call("--inception", weights / "bad.pth")
    assert "holds a training run" in call("--output_dir", weights / "training")
    (weights / "evaluation" / "samples").mkdir(parents=True)
    (weights / "evaluation" / "samples" / "old.png").touch()
    assert "is not empty" in call("--sample", 5, "--format", "png")


def test_the_published_generator_goes_with_the_published_judge(
    run_main, weights, published, monkeypatch
):
    """Even beside a classifier of one's own; and evaluation.json tells what was scored."""
    monkeypatch.chdir(weights)
    for run, name, source in (
        ("gan", "generator.safetensors", weights / "run/generator.safetensors"),
        ("baseline", "discriminator.safetensors", weights / "judge.safetensors"),
    ):
        (published / run).mkdir()
        shutil.copyfile(source, published / run / name)
    own = weights / "output/baseline/discriminator.safetensors"
    own.parent.mkdir(parents=True)
    export_model(Discriminator(2), own, {"dataset": "cifar10"})
    flags = [*MACHINE, "--samples", 1000, "--limit_train", 1000, "--limit_test", 1000]
    code, out, _ = run_main(evaluate_gan, *flags)
    assert code == 0
    assert "taking the published" in out
    found = json.loads((weights / "evaluation/evaluation.json").read_text())
    assert found["generator"] == str(published / "gan/generator.safetensors")
    assert found["judge"]["path"] == str(published / "baseline/discriminator.safetensors")
