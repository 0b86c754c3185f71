import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread

from data_tools import load_dataset
from inside_cnn.metrics import memorization


@pytest.fixture(scope="module")
def shapes():
    train, test = load_dataset("shapes")
    return train.first(120), test


def moved(images, down, right):
    """Shifted by up to 4 pixels, padded by reflection."""
    padded = F.pad(images.float(), [4] * 4, mode="reflect").to(torch.uint8)
    return padded[:, :, 4 - down : 36 - down, 4 - right : 36 - right]


def sets_of(samples, shapes, path):
    train, test = shapes
    images = samples, test.images[1000:1500], train.images
    return memorization.memorization_metrics(*images, seed=0, path=path)["sets"]


def test_a_generator_of_moved_training_images_is_detected(tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(memorization, "BASELINE_IMAGES", 1)
    mirrored, shifted = shapes[0].images.flip(3), moved(shapes[0].images, 4, -3)
    copies = torch.cat([mirrored[:60], shifted[60:]])
    row = sets_of(copies, shapes, tmp_path / "distances.png")["samples"]
    assert row["detected"] == 100
    assert row["interval"][0] > 96
    assert row["percentile_50"] < 0.1


def test_new_images_are_not_detected(tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(memorization, "BASELINE_IMAGES", 40)
    path = tmp_path / "distances.png"
    sets = sets_of(shapes[1].images[:500], shapes, path)
    assert path.exists()
    assert sets["samples"]["detected"] < 3.5
    assert sets["test images"]["detected"] == 1
    copies = [row for name, row in sets.items() if name.startswith("training")]
    assert len(copies) == 5
    assert all(row["detected"] > 97 for row in copies)


def test_position_of_the_nearest_image(shapes):
    """Index, distance and position are known for copies."""
    train = shapes[0].images
    copies = torch.cat(
        [moved(train[7:8], 3, -1), moved(train.flip(3)[9:10], -4, 2), train[5:6] // 2]
    )
    distances, indices, positions = memorization.nearest_training_images(copies, train)
    assert indices[:2].tolist() == [7, 9]
    assert distances[:2].max() < 0.1
    assert distances[2] > 10
    nearest = memorization.aligned(train[indices[:2]], positions[:2])
    assert torch.equal(nearest[:, :, 4:-4, 4:-4], copies[:2, :, 4:-4, 4:-4])
    flat = [torch.full((1, 3, 32, 32), level, dtype=torch.uint8) for level in (100, 117)]
    assert memorization.nearest_training_images(*flat)[0].item() == pytest.approx(17, abs=0.1)


def test_figure_of_samples_above_their_nearest_training_images(tmp_path, shapes):
    train = shapes[0]
    memorization.save_nearest(train.first(180), train.images, tmp_path / "nearest.png")
    picture = imread(tmp_path / "nearest.png")[:, :, :3]
    images = train.images[train.first(180).columns(1)[0]].permute(0, 2, 3, 1).double() / 255
    for column, image in enumerate(images):
        for row in range(2):  # the first sample of each class, and itself: 100 + 13 per row
            block = picture[46 + 113 * row : 46 + 113 * row + 96 : 3, 4 + 100 * column :][:, :96:3]
            assert torch.equal(torch.from_numpy(block).double().mul(255).round(), image * 255)
