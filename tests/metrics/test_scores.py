import pytest
import torch

from data_tools import load_dataset
from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.device import Stream
from inside_cnn.engine.weights import digest, export_model
from inside_cnn.metrics import sampling, scores
from inside_cnn.metrics.scores import Judge, TrainingScores, class_consistency, manifold_scores


@pytest.fixture(autouse=True)
def four_kernel_subsets(monkeypatch):
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 4)


def test_manifold_scores_by_brute_force():
    stream = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(n, 3, generator=stream, dtype=torch.float64) for n in (60, 50))
    fake = 0.7 * fake + 0.8

    def inside(points, centers, k):
        """Which points are in the ball around each center that reaches to its k-th neighbor."""
        radii = (centers[:, None] - centers).norm(dim=2).sort(1).values[:, k]  # [0] is the center
        return (points[:, None] - centers).norm(dim=2) <= radii

    expected = {
        "precision": inside(fake, real, 3).any(1).double().mean(),
        "recall": inside(real, fake, 3).any(1).double().mean(),
        "density": inside(fake, real, 5).sum() / (5 * len(fake)),
        "coverage": inside(fake, real, 5).any(0).double().mean(),
    }
    metrics = manifold_scores(fake, real)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.item(), rel=1e-6), name
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
