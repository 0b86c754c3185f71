import numpy as np
import pytest
import torch

from discriminator import Discriminator
from engine.weights import CheckpointError, export_model
from metrics import scores
from metrics.scores import (
    Judge,
    ScoreError,
    agreement,
    distances,
    manifold_scores,
    nearest,
)


def normal(count, mean, scale, seed):
    """Rows whose sample mean and covariance are exactly `mean` and diag(scale^2)."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(x * scale + mean)


@pytest.fixture(autouse=True)
def few_kernel_subsets(monkeypatch):
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 4)


def test_frechet_distance_of_known_moments():
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    m1, m2 = np.array([0.0, 1, 2, 0.5]), np.array([1.0, 1, 0, 0.25])
    s1, s2 = np.array([1.0, 2, 0.5, 1]), np.array([2.0, 2, 1.5, 0.1])
    found = distances(normal(2000, m1, s1, 0), normal(1500, m2, s2, 1))
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert found["frechet_distance"] == pytest.approx(expected, rel=1e-6)


def frechet_by_eigh(a, b):
    """float64 numpy, by symmetric square roots."""

    def root(m):
        values, vectors = np.linalg.eigh(m)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    product = root(root(c1) @ c2 @ root(c1))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * product)


def kernel_by_hand(a, b, seed, subsets, size):
    """The unbiased squared MMD, averaged over the same draws."""
    draws, found = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = a[draws.choice(len(a), size, replace=False)]
        y = b[draws.choice(len(b), size, replace=False)]
        xx, yy, xy = ((p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        off = size * (size - 1)
        found.append(
            (xx.sum() - np.trace(xx)) / off + (yy.sum() - np.trace(yy)) / off - 2 * xy.mean()
        )
    return np.mean(found), np.std(found)


def test_distances_against_numpy():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(12, 12))
    a, b = rng.normal(size=(1200, 12)) @ mix, rng.gamma(2.0, size=(1100, 12))
    found = distances(torch.from_numpy(a), torch.from_numpy(b), seed=3)
    assert found["frechet_distance"] == pytest.approx(frechet_by_eigh(a, b), rel=1e-6)
    mean, std = kernel_by_hand(a, b, 3, scores.KERNEL_SUBSETS, scores.KERNEL_SUBSET)
    assert found["kernel_distance"] == pytest.approx(mean, rel=1e-6)
    assert found["kernel_distance_std"] == pytest.approx(std, rel=1e-6)


def test_distance_of_a_set_to_itself_is_zero():
    a = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
    assert distances(a, a)["frechet_distance"] == pytest.approx(0, abs=1e-6)


def test_too_few_samples():
    few, many = torch.zeros(999, 4), torch.zeros(1000, 4)
    for pair in ((few, many), (many, few)):
        with pytest.raises(ScoreError, match="999 images are too few"):
            distances(*pair)


def test_manifold_scores_by_brute_force():
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(60, 3)), 0.7 * rng.normal(size=(50, 3)) + 0.8
    found = manifold_scores(torch.from_numpy(fake), torch.from_numpy(real))

    def distance(p, q):
        return float(np.sqrt(((p - q) ** 2).sum()))

    def radii(rows, k):
        return [sorted(distance(p, q) for q in rows)[k] for p in rows]  # [0] is the row itself

    def inside(points, centres, radii):
        return [
            sum(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points
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
        assert found[name] == pytest.approx(value, rel=1e-6), name
        assert 0 < value < 1 or name == "density"


def test_nearest():
    pool = torch.tensor([[0.0, 0], [3, 4], [10, 0]])
    distance, index = nearest(torch.tensor([[0.0, 1], [9, 0]]), pool, count=2, chunk=1)
    assert index.tolist() == [[0, 1], [2, 1]]
    assert distance[:, 0].tolist() == [1, 1]


def test_agreement():
    labels, classes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    assert agreement(classes, labels, ["a", "b", "c"]) == (75.0, {"a": 50.0, "b": 100.0})


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "judge.safetensors"
    export_model(Discriminator(6), path, {"dataset": "shapes"})
    return Judge(path)


def test_judge_sees_what_its_network_sees(judge):
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    features, classes = judge.look(images, batch_size=3)
    _, logits = judge.model(images.float() / 127.5 - 1)
    assert features.dtype == torch.float64
    assert torch.equal(classes, logits.argmax(1))
    assert torch.allclose(judge.model.class_head(features.float()), logits, atol=1e-5)


def test_judge_of_another_set(judge):
    judge.check_set("shapes")
    with pytest.raises(CheckpointError, match="trained on shapes, not on cifar10"):
        judge.check_set("cifar10")
