import numpy as np
import pytest
import torch

from data_tools import load_dataset
from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.device import Stream
from inside_cnn.core.errors import UserError
from inside_cnn.engine.weights import digest, export_model
from inside_cnn.metrics import sampling, scores
from inside_cnn.metrics.scores import (
    Judge,
    TrainingScores,
    class_consistency,
    distances,
    manifold_scores,
)


def normal(count, mean, scale, seed):
    """Rows whose sample mean and covariance are exactly `mean` and diag(scale^2)."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(x * scale + mean)


@pytest.fixture(autouse=True)
def four_kernel_subsets(monkeypatch):
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 4)


def test_frechet_distance_of_known_moments():
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    m1, m2 = np.array([0.0, 1, 2, 0.5]), np.array([1.0, 1, 0, 0.25])
    s1, s2 = np.array([1.0, 2, 0.5, 1]), np.array([2.0, 2, 1.5, 0.1])
    metrics = distances(normal(2000, m1, s1, 0), normal(1500, m2, s2, 1))
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert metrics["frechet_distance"] == pytest.approx(expected, rel=1e-6)


def frechet_by_eigh(a, b):
    """float64 numpy, by symmetric square roots."""

    def root(m):
        values, vectors = np.linalg.eigh(m)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    product = root(root(c1) @ c2 @ root(c1))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * product)


def kernel_by_hand(a, b, seed, subsets, size):
    """The unbiased squared MMD, averaged over the same subsets."""
    choices, estimates = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = a[choices.choice(len(a), size, replace=False)]
        y = b[choices.choice(len(b), size, replace=False)]
        xx, yy, xy = ((p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        off = size * (size - 1)
        estimates.append(
            (xx.sum() - np.trace(xx)) / off + (yy.sum() - np.trace(yy)) / off - 2 * xy.mean()
        )
    return np.mean(estimates), np.std(estimates)


def test_distances_against_numpy():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(12, 12))
    a, b = rng.normal(size=(1200, 12)) @ mix, rng.gamma(2.0, size=(1100, 12))
    metrics = distances(torch.from_numpy(a), torch.from_numpy(b), seed=3)
    assert metrics["frechet_distance"] == pytest.approx(frechet_by_eigh(a, b), rel=1e-6)
    mean, std = kernel_by_hand(a, b, 3, scores.KERNEL_SUBSETS, scores.KERNEL_SUBSET)
    assert metrics["kernel_distance"] == pytest.approx(mean, rel=1e-6)
    assert metrics["kernel_distance_std"] == pytest.approx(std, rel=1e-6)


def test_manifold_scores_by_brute_force():
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(60, 3)), 0.7 * rng.normal(size=(50, 3)) + 0.8
    metrics = manifold_scores(torch.from_numpy(fake), torch.from_numpy(real))

    def distance(p, q):
        return float(np.sqrt(((p - q) ** 2).sum()))

    def radii(rows, k):
        return [sorted(distance(p, q) for q in rows)[k] for p in rows]  # [0] is the row itself

    def inside(points, centers, radii):
        return [
            sum(distance(p, c) <= r for c, r in zip(centers, radii, strict=True)) for p in points
        ]

    precision = np.mean([n > 0 for n in inside(fake, real, radii(real, 3))])
    recall = np.mean([n > 0 for n in inside(real, fake, radii(fake, 3))])
    radii_5 = radii(real, 5)
    density = np.sum(inside(fake, real, radii_5)) / (5 * len(fake))
    coverage = np.mean(
        [any(distance(f, c) <= r for f in fake) for c, r in zip(real, radii_5, strict=True)]
    )
    expected = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6), name
        assert 0 < value < 1 or name == "density"


def test_class_consistency():
    labels, classes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    percentage, per_class = class_consistency(classes, labels, ["a", "b", "c"])
    assert percentage == 75
    assert per_class == {"a": 50, "b": 100}


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "judge.safetensors"
    export_model(Discriminator(6), path, {"dataset": "shapes"})
    return Judge(path)


def test_judge_returns_features_and_predictions_of_its_network(judge):
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    features, classes = judge.features_and_classes(images)
    _, logits = judge.model(images.float() / 127.5 - 1)
    assert features.dtype == torch.float64
    assert torch.equal(classes, logits.argmax(1))
    assert torch.allclose(judge.model.class_head(features.float()), logits, atol=1e-5)


def test_judge_without_metadata_is_refused(tmp_path):
    export_model(Discriminator(6), tmp_path / "bare.safetensors", {})
    with pytest.raises(UserError, match="does not name the dataset it was trained on"):
        Judge(tmp_path / "bare.safetensors").check_classes(load_dataset("shapes")[0])


# ------------------------------------------------------------------------------ during training


@pytest.fixture
def generator():
    torch.manual_seed(1)
    return Generator(4)


def test_training_scores_are_those_of_the_table(judge, generator):
    """The latents are the same at every call; the network's mode and weights are unchanged."""
    train, _ = load_dataset("shapes")
    before = digest(generator)
    training_scores = TrainingScores(judge, train, seed=5, samples=1000, reference=1100)
    metrics = training_scores(generator)
    assert metrics == training_scores(generator)
    assert generator.training
    assert digest(generator) == before

    labels = sampling.sample_labels(1000)
    latents = sampling.latents_of(labels, 100, 5, Stream.TRAINING_SCORES)
    features, classes = judge.features_and_classes(sampling.generate(generator, latents))
    reference, _ = judge.features_and_classes(train.images[:1100])
    row = scores.score_table({"x": (features, classes, labels)}, reference, train.class_names, 5)
    assert metrics.keys() == {"frechet_distance", "kernel_distance", "class_consistency"}
    for name, value in metrics.items():
        assert value == row["x"][name], name


def test_training_scores_do_not_communicate(judge, generator, tmp_path, monkeypatch):
    """In a run of several processes, only one of them computes the scores."""
    file = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    try:
        with monkeypatch.context() as patch:
            for name in ("all_reduce", "all_gather", "broadcast", "barrier", "all_gather_object"):
                patch.setattr(torch.distributed, name, None)  # a call of it would raise
            train, _ = load_dataset("shapes")
            TrainingScores(judge, train, seed=0, samples=1000, reference=1000)(generator)
    finally:
        torch.distributed.destroy_process_group()
