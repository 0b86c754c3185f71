import errno
import os

import pytest
import torch

from metrics import feature_cache
from metrics.feature_cache import FeatureCache
from metrics.scores import ScoreError


class Extractor:
    """Mean and first pixel of each image; counts what it is given; dies after `lives` images."""

    def __init__(self, lives=10**9):
        self.seen, self.lives = 0, lives

    def __call__(self, batch):
        self.seen += len(batch)
        if self.seen > self.lives:
            raise KeyboardInterrupt
        pixels = batch.flatten(1).double()
        return torch.stack([pixels.mean(1), pixels[:, 0]], 1)


@pytest.fixture
def images(monkeypatch):
    monkeypatch.setattr(feature_cache, "BLOCK", 10)
    stream = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (25, 3, 4, 4), generator=stream, dtype=torch.uint8)


def features_of(cache, images, extractor):
    return cache.features(images, extractor, batch_size=4, title="images")


def test_what_is_kept_is_not_made_again(tmp_path, images, capsys):
    cache = FeatureCache(tmp_path / "a" / "b", "v1")
    first = Extractor()
    features = features_of(cache, images, first)
    assert torch.equal(features, Extractor()(images).float())
    assert first.seen == 25
    again = Extractor()
    assert torch.equal(
        features_of(FeatureCache(tmp_path / "a" / "b", "v1"), images, again), features
    )
    assert again.seen == 0
    assert "25 of 25 images are kept" in capsys.readouterr().out
    more = Extractor()  # whole blocks serve another set too
    assert torch.equal(features_of(cache, images[:15], more), features[:15])
    assert more.seen == 5


def test_stopped_it_goes_on_at_the_block(tmp_path, images):
    cache = FeatureCache(tmp_path, "v1")
    with pytest.raises(KeyboardInterrupt):
        features_of(cache, images, Extractor(lives=17))
    rest = Extractor()
    assert torch.equal(features_of(cache, images, rest), Extractor()(images).float())
    assert rest.seen == 15


def test_other_images_and_other_makers_find_nothing(tmp_path, images):
    features_of(FeatureCache(tmp_path, "v1"), images, Extractor())
    other = images.clone()
    other[0, 0, 0, 0] += 1
    for maker, asked, expected in (
        ("v2", images, 25),
        ("v1", other, 10),
        ("v1", images.flip(1), 25),
    ):
        extractor = Extractor()
        features_of(FeatureCache(tmp_path, maker), asked, extractor)
        assert extractor.seen == expected


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def make_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty])
def test_a_damaged_file_is_told_and_made_anew(tmp_path, images, capsys, damage):
    cache = FeatureCache(tmp_path, "v1")
    features = features_of(cache, images, Extractor())
    victim = sorted(tmp_path.iterdir())[0]
    damage(victim)
    capsys.readouterr()
    extractor = Extractor()
    assert torch.equal(features_of(cache, images, extractor), features)
    assert extractor.seen in (5, 10)
    assert f"{victim} is damaged" in capsys.readouterr().out
    assert features_of(cache, images, Extractor(lives=0)).shape == (25, 2)


def test_what_is_no_cache(tmp_path, images):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ScoreError, match="--feature_cache"):
            FeatureCache(folder, "v1")
    cache = FeatureCache(tmp_path / "cache", "v1")
    features_of(cache, images[:10], Extractor())
    make_a_folder(next((tmp_path / "cache").iterdir()))
    with pytest.raises(ScoreError, match="cannot write"):
        features_of(cache, images[:10], Extractor())


def test_two_evaluations_write_the_same_blocks(tmp_path, images):
    """Each finds the block missing, and both write it: neither stumbles over the other."""
    caches = [FeatureCache(tmp_path, "v1"), FeatureCache(tmp_path, "v1")]

    def meanwhile(batch):
        if caches:
            features_of(caches.pop(), images, meanwhile)
        return Extractor()(batch)

    features = features_of(caches.pop(), images, meanwhile)
    assert torch.equal(features, Extractor()(images).float())
    assert len(list(tmp_path.iterdir())) == 3
    assert features_of(FeatureCache(tmp_path, "v1"), images, Extractor(lives=0)).shape == (25, 2)


def test_two_evaluations_at_once_share_the_work(tmp_path, images):
    """What one has made since the other began is not made again."""
    theirs, ours = Extractor(), Extractor()

    def beside(batch):
        if theirs.seen == 0:
            features_of(FeatureCache(tmp_path, "v1"), images, theirs)
        return ours(batch)

    features = features_of(FeatureCache(tmp_path, "v1"), images, beside)
    assert torch.equal(features, Extractor()(images).float())
    assert (theirs.seen, ours.seen) == (25, 10)


def test_a_full_disk(tmp_path, images, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(feature_cache, "write_atomically", full)
    with pytest.raises(ScoreError, match="No space left on device; give another --feature_cache"):
        features_of(FeatureCache(tmp_path, "v1"), images, Extractor())
