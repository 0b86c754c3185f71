import pytest
import torch

import data_tools
from data_tools import to_signed
from interpretability.top_images import digest_of, kept, top_images


@pytest.fixture(scope="module")
def images():
    return data_tools.load_shapes()[1].first(120).images


@pytest.fixture(scope="module")
def found(trained, images):
    return top_images(trained, images, count=5, batch_size=50)


@pytest.mark.parametrize("layer", [1, 4, 8])
def test_the_strongest_first_and_where(trained, images, found, layer):
    maps = trained.features(to_signed(images), layer)
    strongest = maps.amax((2, 3)).topk(5, dim=0)
    torch.testing.assert_close(found.values[layer - 1], strongest.values)
    for feature in range(12):
        for rank in range(5):
            index, row, column = (
                part[layer - 1, rank, feature] for part in (found.images, found.rows, found.columns)
            )
            expected = strongest.values[rank, feature].item()
            assert maps[index, feature, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_of_the_classes(trained, images, found):
    logits = trained(to_signed(images))[1]
    ours = logits.gather(0, found.of_classes)
    torch.testing.assert_close(ours, logits.topk(5, dim=0).values)


def test_they_are_kept(found, tmp_path, capsys):
    path = tmp_path / "new" / "file.safetensors"
    assert kept(path, lambda: found) is found
    again = kept(path, lambda: pytest.fail("made again"))
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))
    path.write_bytes(path.read_bytes()[:100])
    assert kept(path, lambda: found) is found
    assert "made anew" in capsys.readouterr().out
    kept(path, lambda: pytest.fail("made again"))


def test_where_they_cannot_be_kept(found, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert kept(tmp_path / "file" / "below", lambda: found) is found
    assert "not kept" in capsys.readouterr().out


def test_the_digest_is_of_the_pixels(images):
    other = images.clone()
    other[5, 1, 3, 3] ^= 1
    assert digest_of(images) == digest_of(images.clone()) != digest_of(other)
