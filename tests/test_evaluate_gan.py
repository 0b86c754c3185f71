import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import evaluate_gan
from discriminator import Discriminator
from faults import no_room_for
from generator import Generator
from inside_cnn.data.shapes import CLASS_NAMES
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.metrics import inception, memorization, sampling, scores
from inside_cnn.metrics.scores import Judge
from inside_cnn.reporting.page import contents_of

MACHINE = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A judge and a generator of the built-in set, as exports; few draws and few controls."""
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 2)
    monkeypatch.setattr(memorization, "CONTROL_IMAGES", 20)
    torch.manual_seed(0)
    about = {"dataset": "shapes", "step": 7, "class_names": list(CLASS_NAMES)}
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


def samples_of(weights, labels):
    """What the run's generator draws with --seed 0, in float32."""
    generator, _ = load_model(weights / "run" / "generator.safetensors")
    return sampling.draw(generator, sampling.latents_of(labels, 100, seed=0))


def images_in(path, top, columns=10, rows=10, caption=0):
    """The images out of a grid that save_image_grid drew, uint8 (rows * columns, 3, 32, 32)."""
    picture = (imread(path)[:, :, :3] * 255).round().astype(np.uint8)
    places = [(top + (100 + caption) * r, 4 + 100 * c) for r in range(rows) for c in range(columns)]
    images = [picture[y : y + 96 : 3, x : x + 96 : 3] for y, x in places]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_scores_and_pictures(evaluate, weights):
    code, out, err = evaluate("--samples", 300, "--limit_train", 400, "--limit_test", 300)
    assert code == 0, err
    folder = weights / "evaluation"
    result = json.loads((folder / "evaluation.json").read_text())
    table = result["scores"]
    names = ["test images", "noisy training images", "samples", "untrained generator"]
    assert list(table) == names
    for row in table.values():
        for field in scores.COLUMNS:
            assert np.isfinite(row[field])
    assert table["test images"]["frechet_distance"] < table["samples"]["frechet_distance"]
    assert f"{result['judge']['test_accuracy']:.2f} %" in out
    assert table["test images"]["class_consistency"] == result["judge"]["test_accuracy"]
    assert result["reference"] == "400 training images"
    assert "torch-fidelity" in result["arithmetic"]
    assert "inception" not in result
    near = result["memorization"]["sets"]
    assert near["samples"]["percentile_1"] <= near["samples"]["percentile_50"]
    assert near["test images"]["detected"] == 1

    samples = samples_of(weights, sampling.sample_labels(100))  # their classes take turns
    assert torch.equal(images_in(folder / "samples.png", top=26), samples)
    first_row = images_in(folder / "nearest.png", top=46, rows=1)
    assert torch.equal(first_row, samples[:10])
    generator, _ = load_model(weights / "run" / "generator.safetensors")
    walks = zip(("within", "between"), sampling.walks(100, seed=0), strict=True)
    for name, latents in walks:
        shown = images_in(folder / f"walk_{name}_classes.png", top=28, caption=13)
        assert torch.equal(shown, sampling.draw(generator, latents)), name


def test_class_names_are_never_paths(weights, run_main):
    about = {"dataset": "shapes", "class_names": ["../../x", *"bcdefghij"]}
    export_model(Generator(4), weights / "odd.safetensors", about)
    flags = ["--generator", weights / "odd.safetensors", "--output_dir", weights / "odd"]
    code, _, _ = run_main(evaluate_gan, *flags, *MACHINE, "--sample", 2, "--format", "png")
    assert code == 0
    assert sorted(p.name for p in (weights / "odd/samples").iterdir()) == ["0_______x", "1_b"]


@pytest.mark.parametrize("form", ["png", "npz", "grid"])
def test_sampling_only(evaluate, weights, form):
    code, out, _ = evaluate("--sample", 12, "--format", form, "--labels", 3, 5)
    assert code == 0
    assert "12 samples" in out
    folder = weights / "evaluation"
    if form == "png":
        assert sorted(p.name for p in (folder / "samples").iterdir()) == ["3_triangle", "5_cross"]
        assert len(list(folder.rglob("*.png"))) == 12
    elif form == "npz":
        with np.load(folder / "samples.npz") as arrays:
            assert arrays["arr_1"].tolist() == [3, 5] * 6
    else:
        shown = images_in(folder / "sample_grid.png", top=26, columns=2, rows=6)
        assert torch.equal(shown, samples_of(weights, sampling.sample_labels(12, [3, 5])))


def test_seed_batch_size_and_raw_weights(evaluate, weights):
    def images(*more):
        (weights / "evaluation" / "samples.npz").unlink(missing_ok=True)
        assert evaluate("--sample", 20, "--format", "npz", *more)[0] == 0
        with np.load(weights / "evaluation" / "samples.npz") as arrays:
            return arrays["arr_0"]

    base = images()
    assert np.array_equal(base, images("--batch_size", 3))
    assert not np.array_equal(base, images("--seed", 1))
    assert not np.array_equal(base, images("--raw"))


def test_a_scoring_that_is_cut_leaves_the_old_whole(evaluate, weights, monkeypatch):
    """Figures and pictures; the new ones come together at its end."""
    few = ["--samples", 40, "--limit_train", 40, "--limit_test", 40]
    assert evaluate(*few)[0] == 0
    folder = weights / "evaluation"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(sampling, "save_walks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert evaluate(*few, "--seed", 1)[0] == 130
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with no_room_for("walk_between_classes.png"):
        code, _, err = evaluate(*few, "--seed", 1)
    assert code == 2
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert evaluate(*few, "--seed", 1)[0] == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    same = {name for name in after if after[name] == before[name]}
    assert same <= {"nearest_distances.png"}  # samples of an untrained generator are alike


def test_inception_without_network_is_left_out(evaluate, weights, monkeypatch):
    """And each row of the table has the same number of images."""
    monkeypatch.setattr(inception, "get_dir", lambda: str(weights))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    code, out, _ = evaluate("--inception", "--samples", 60, "--limit_train", 40, "--limit_test", 50)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("IS, FID and KID left out"))
    assert "--inception FILE" in line
    result = json.loads((weights / "evaluation" / "evaluation.json").read_text())
    assert "download" in result["inception"]["left_out"]
    assert [row["images"] for row in result["scores"].values()] == [40] * 4
    _, test = evaluate_gan.load_dataset("shapes")
    judge = Judge(weights / "judge.safetensors")
    classes = judge.features_and_classes(test.images[:50])[1]
    correct = 100 * (classes == test.labels[:50]).double().mean().item()
    assert result["judge"]["test_accuracy"] == pytest.approx(correct, abs=0.01)  # over all 50


class FirstPixels(inception.Inception):
    """Some pixels in place of the network's features."""

    def __init__(self, weights, device, precision, cache):
        self.precision, self.checksum, self.has_last_layer = precision, str(weights), False

    def features(self, images, title):
        return images.flatten(1)[:, ::400].float()


def test_inception_by_both_protocols(evaluate, weights, monkeypatch):
    """As many samples as there are images to compare with."""
    monkeypatch.setattr(inception, "Inception", FirstPixels)
    few = ["--samples", 20, "--limit_train", 24, "--limit_test", 20]
    code, out, err = evaluate("--inception", "weights.pth", *few)
    assert code == 0, err
    assert "samples against training images: " in out
    about = json.loads((weights / "evaluation" / "evaluation.json").read_text())["inception"]
    assert about["precision"] == "fp32"
    assert about["weights_sha256"] == "weights.pth"
    rows = about["scores"]
    assert {name: (row["images"], row["reference_images"]) for name, row in rows.items()} == {
        "samples against test images": (20, 20),
        "test images against training images": (20, 24),
        "samples against training images": (24, 24),
    }
    _, test = evaluate_gan.load_dataset("shapes")
    samples = samples_of(weights, sampling.sample_labels(20))
    features = (images.flatten(1)[:, ::400].float() for images in (samples, test.images[:20]))
    expected = scores.distances(*features)["frechet_distance"]
    assert rows["samples against test images"]["fid"] == pytest.approx(expected, rel=1e-9)


def test_samples_alone_leave_the_scores_and_their_pictures(evaluate, weights):
    assert evaluate("--samples", 40, "--limit_train", 40, "--limit_test", 40)[0] == 0
    folder = weights / "evaluation"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for form in ("grid", "npz", "png"):
        flags = ["--sample", 30, "--labels", 3, "--truncation", 0.1, "--format", form]
        assert evaluate(*flags)[0] == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after.keys() - before.keys() == {"sample_grid.png", "samples.npz"}
    assert after.items() >= before.items()


def test_truncation(evaluate, weights):
    few = ["--samples", 40, "--limit_train", 40, "--limit_test", 40]

    def results(*more):
        code, out, err = evaluate(*few, *more)
        assert code == 0, err
        assert ("truncation 0.5" in out) == bool(more)
        pictures = ("samples", "walk_within_classes", "walk_between_classes")
        pictures = [imread(weights / f"evaluation/{name}.png") for name in pictures]
        return json.loads((weights / "evaluation/evaluation.json").read_text()), pictures

    plain, plain_pictures = results()
    cut, cut_pictures = results("--truncation", 0.5)
    assert "truncation" not in plain
    assert cut["truncation"] == 0.5
    assert plain["scores"]["samples"] != cut["scores"]["samples"]
    assert plain["scores"]["test images"] == cut["scores"]["test images"]
    for before, after in zip(plain_pictures, cut_pictures, strict=True):
        assert before.shape != after.shape or (before != after).any()

    # The report says so too.
    places = dict.fromkeys(("baseline", "gan", "visualization"), weights / "nothing")
    page = contents_of({**places, "evaluation": weights / "evaluation"})
    assert "samples" not in dict(page["scores"]["rows"])
    assert "samples, truncation 0.5" in dict(page["scores"]["rows"])
    assert "class consistency of samples, truncation 0.5" in dict(page["cards"])


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
    assert "holds a discriminator, not a generator" in call("--generator", judge)
    assert "holds a generator, not a discriminator" in call(
        "--judge", weights / "run/generator.safetensors"
    )
    assert "no weights at" in call("--judge", weights / "absent")
    assert "trained on shapes, not on cifar10" in call("--dataset", "cifar10")
    assert "at most 1000" in call("--sample", 1001)
    assert "trained on cifar10, not on shapes" in call("--judge", weights / "other.safetensors")
    assert "--sample" in call("--sample", 0)
    assert "--labels 10" in call("--sample", 5, "--labels", 10)
    assert "--labels goes with --sample" in call("--labels", 1)
    assert "at least 20" in call("--samples", 19)
    assert "too few" in call("--limit_test", 19)
    assert "holds no weights of torch-fidelity" in call("--inception", weights / "bad.pth")
    assert "holds a training run" in call("--output_dir", weights / "training")
    (weights / "evaluation" / "samples").mkdir(parents=True)
    (weights / "evaluation" / "samples" / "old.png").touch()
    assert "is not empty" in call("--sample", 5, "--format", "png")


def test_the_published_networks_stand_in(run_main, refused, weights, published, monkeypatch):
    """Each for itself; a judge of one's own has to know the generator's classes."""
    monkeypatch.chdir(weights)
    for run, name, source in (
        ("gan", "generator.safetensors", weights / "run/generator.safetensors"),
        ("baseline", "discriminator.safetensors", weights / "judge.safetensors"),
    ):
        (published / run).mkdir()
        shutil.copyfile(source, published / run / name)
    flags = [*MACHINE, "--samples", 40, "--limit_train", 40, "--limit_test", 40]
    code, out, _ = run_main(evaluate_gan, *flags)
    assert code == 0
    assert out.count("using the published") == 2
    result = json.loads((weights / "evaluation/evaluation.json").read_text())
    assert result["generator"] == str(published / "gan/generator.safetensors")
    assert result["judge"]["path"] == str(published / "baseline/discriminator.safetensors")
    own = weights / "output/baseline/discriminator.safetensors"
    own.parent.mkdir(parents=True)
    export_model(Discriminator(2, num_classes=2), own, {"class_names": ["cat", "dog"]})
    assert "the judge output/baseline" in (message := refused(evaluate_gan, *flags))
    assert "train_discriminator.py, or give --judge" in message
