import pytest
import torch
from matplotlib.image import imread

from data_tools import load_dataset
from discriminator import Discriminator
from engine.weights import export_model
from metrics import memorization
from metrics.scores import Judge


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "judge.safetensors"
    export_model(Discriminator(6), path, {"dataset": "shapes"})
    return Judge(path)


def test_samples_that_are_training_images_are_found(tmp_path, judge):
    """They lie at distance 0 from the training set, and stand above themselves in the picture."""
    train, test = load_dataset("shapes")
    train, test = train.first(300), test.first(200)
    samples = train.first(180)
    of_samples, of_test, of_train = (
        judge.features_and_classes(part.images)[0] for part in (samples, test, train)
    )
    path = tmp_path / "distances.png"
    metrics = memorization.memorization_metrics(of_samples, of_test, of_train, path)
    assert metrics["samples"]["percentile_50"] == pytest.approx(0, abs=1e-6)
    assert metrics["test_images"]["percentile_50"] > 1e-3
    assert metrics["samples_nearer_than_1_percent_of_test_images"] == 100
    assert path.exists()

    distance, index = memorization.nearest_pixels(samples.images, train.images)
    assert distance.max() < 1e-4
    assert torch.equal(train.images[index[:, 0]], samples.images)

    path = tmp_path / "nearest.png"
    memorization.save_nearest(samples, of_samples, train, of_train, path)
    picture = imread(path)[:, :, :3]
    images = samples.images[samples.columns(1)[0]].permute(0, 2, 3, 1).double() / 255
    for column, image in enumerate(images):
        shown = [  # the first sample of each class, by features, by pixels: 100 + 26 + 13 per row
            picture[46 + 126 * row : 46 + 126 * row + 96 : 3, 4 + 100 * column :][:, :96:3]
            for row in range(3)
        ]
        for block in shown:
            assert torch.equal(torch.from_numpy(block).double().mul(255).round(), image * 255)


def test_test_images_are_no_copies_of_training_images(tmp_path, judge):
    """Other real images as samples: about 1 % of them are nearer than 1 % of the test images."""
    train, test = load_dataset("shapes")
    features = [judge.features_and_classes(part.images)[0] for part in (train.first(2000), test)]
    metrics = memorization.memorization_metrics(
        features[1][:1000], features[1][1000:], features[0], tmp_path / "distances.png"
    )
    assert metrics["samples_nearer_than_1_percent_of_test_images"] < 4


def test_nearest_pixels_across_blocks():
    pool = torch.zeros(20_001, 3, 2, 2, dtype=torch.uint8)
    pool[20_000] = 255
    distance, index = memorization.nearest_pixels(torch.full((1, 3, 2, 2), 255), pool)
    assert index.item() == 20_000
    assert distance.item() == pytest.approx(0, abs=1e-3)
