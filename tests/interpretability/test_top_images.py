import pytest
import torch

import data_tools
from data_tools import to_signed
from discriminator import Discriminator
from inside_cnn.interpretability.receptive_field import box
from inside_cnn.interpretability.top_images import (
    cached,
    digest_of,
    peak_positions,
    strongest_units,
    top_images,
)
from networks import as_network


@pytest.fixture(scope="module")
def images():
    return data_tools.load_shapes()[1].first(120).images


@pytest.fixture(scope="module")
def top(trained, images):
    return top_images(as_network(trained), images.split(50), count=5)


@pytest.mark.parametrize("layer", [1, 4, 8])
def test_top_images_of_features(trained, images, top, layer):
    maps = trained.features(to_signed(images), layer)
    strongest = maps.amax((2, 3)).topk(5, dim=0)
    torch.testing.assert_close(top.values[layer - 1], strongest.values)
    for feature in range(12):
        for rank in range(5):
            index, row, column = (
                part[layer - 1, rank, feature] for part in (top.images, top.rows, top.columns)
            )
            expected = strongest.values[rank, feature].item()
            assert maps[index, feature, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_fewer_images_than_requested(trained, images):
    top = top_images(as_network(trained), images[:6].split(4), count=8)
    assert top.values.shape[1] == top.of_classes.shape[0] == 6


def test_top_images_of_classes(trained, images, top):
    logits = trained(to_signed(images))[1]
    ours = logits.gather(0, top.of_classes)
    torch.testing.assert_close(ours, logits.topk(5, dim=0).values)


def test_top_images_are_cached(top, tmp_path):
    path = tmp_path / "new" / "file.safetensors"
    assert cached(path, lambda: top) is top
    again = cached(path, lambda: pytest.fail("computed again"))
    assert all(torch.equal(a, b) for a, b in zip(again, top, strict=True))


def test_digest_depends_on_every_pixel(images):
    other = images.clone()
    other[5, 1, 3, 3] ^= 1
    assert digest_of(images) == digest_of(images.clone()) != digest_of(other)


def test_receptive_field_of_the_strongest_unit_contains_the_pattern():
    """The image has one bright spot; all kernels are positive, so light activates every feature."""
    torch.manual_seed(0)
    network = Discriminator(width=4)
    for block in network.blocks:
        torch.nn.init.uniform_(block[0].weight, 0.5, 1)
    spots = [(5, 20), (24, 9)]
    images = torch.full((2, 3, 32, 32), 127, dtype=torch.uint8)
    for image, (row, column) in zip(images, spots, strict=True):
        image[:, row : row + 3, column : column + 3] = 255
    units = strongest_units(as_network(network), [images], [1, 2, 3, 4])
    for layer, (_, rows, columns) in units.items():
        for index, (row, column) in enumerate(spots):
            for feature in range(network.width):
                place = int(rows[index, feature]), int(columns[index, feature])
                top, left, bottom, right = box(layer, *place)
                assert top <= row + 1 < bottom, layer
                assert left <= column + 1 < right, layer


def test_peak_is_the_most_frequent_position_of_the_strongest_images():
    """Weak images at (3, 3) do not count; the activations decide ties."""
    values = torch.arange(40.0)[:, None].expand(40, 2)
    rows, columns = torch.full((2, 40, 2), 3.0)
    rows[32:, 0], columns[32:, 0] = torch.tensor([0, 5, 5, 0, 5, 1, 5, 0.0]), 6
    rows[32:36, 1], columns[32:36, 1] = 1, 2
    rows[36:, 1], columns[36:, 1] = 4, 0
    assert peak_positions(values, rows, columns).tolist() == [[5, 6], [4, 0]]
