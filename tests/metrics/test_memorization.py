import pytest
import torch

from data_tools import load_dataset
from discriminator import Discriminator
from engine.weights import export_model
from metrics import memorization
from metrics.scores import Judge


def test_copies_are_found(tmp_path):
    """Samples that are training images lie at distance 0 from the training set."""
    torch.manual_seed(0)
    path = tmp_path / "judge.safetensors"
    export_model(Discriminator(6), path, {"dataset": "shapes"})
    judge = Judge(path)
    train, test = load_dataset("shapes")
    train, test = train.first(300), test.first(200)
    labels = torch.arange(100) % 10
    chosen = torch.stack(
        [torch.nonzero(train.labels == k).flatten()[i] for i in range(10) for k in range(10)]
    )
    samples = train.images[chosen]
    features, reference, of_test = (judge.look(x)[0] for x in (samples, train.images, test.images))
    found = memorization.look_for_copies(
        tmp_path, samples, labels, features, train, of_test, reference
    )
    assert found["samples"]["percentile_50"] == pytest.approx(0, abs=1e-6)
    assert found["samples_nearer_than_1_percent_of_test_images"] == 100
    distance, index = memorization.nearest_pixels(samples, train.images)
    assert distance.max() < 1e-4
    assert torch.equal(train.images[index[:, 0]], samples)


def test_nearest_pixels_across_blocks():
    pool = torch.zeros(20_001, 3, 2, 2, dtype=torch.uint8)
    pool[20_000] = 255
    distance, index = memorization.nearest_pixels(torch.full((1, 3, 2, 2), 255), pool)
    assert index.item() == 20_000
    assert distance.item() == pytest.approx(0, abs=1e-3)
