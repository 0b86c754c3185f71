"""The Inception path on a stand-in with random weights: the real network and code, odd scores."""

import hashlib
import pickle

import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from engine.errors import UserError
from metrics import inception, scores
from random_inception import write_random_weights


class Rows(torch.utils.data.Dataset):
    """A tensor's rows, as torch-fidelity takes them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    write_random_weights(path)
    return path


@pytest.fixture
def images():
    stream = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (12, 3, 32, 32), generator=stream, dtype=torch.uint8)


@pytest.fixture
def network(stand_in, tmp_path, monkeypatch):
    """The extractor, for as few images as a test can wait for."""
    monkeypatch.setattr(scores, "KERNEL_SUBSET", 4)
    monkeypatch.setattr(scores, "MIN_SAMPLES", 4)
    return inception.Inception(stand_in, cache=tmp_path / "features")


def test_folding_changes_rounding_alone(stand_in, network, images):
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(stand_in))
    expected = theirs(images)[0]
    assert expected.std() > 0.1
    assert torch.allclose(network.features(images, "images"), expected, rtol=0, atol=1e-4)


def test_the_scores_are_those_of_torch_fidelity(stand_in, network, images):
    theirs = torch_fidelity.calculate_metrics(
        input1=Rows(images),
        input2=Rows(images[3:]),
        isc=True,
        fid=True,
        kid=True,
        kid_subsets=scores.KERNEL_SUBSETS,
        kid_subset_size=4,
        feature_extractor_weights_path=str(stand_in),
        save_cpu_ram=True,
        cuda=False,
        cache=False,
        verbose=False,
        rng_seed=0,
    )
    features = network.features(images, "images")
    ours = network.scores(features, features[3:])
    assert (ours["images"], ours["reference_images"]) == (12, 9)
    for field, key in {
        "fid": torch_fidelity.KEY_METRIC_FID,
        "kid": torch_fidelity.KEY_METRIC_KID_MEAN,
        "kid_std": torch_fidelity.KEY_METRIC_KID_STD,
        "inception_score": torch_fidelity.KEY_METRIC_ISC_MEAN,
        "inception_score_std": torch_fidelity.KEY_METRIC_ISC_STD,
    }.items():
        assert ours[field] == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), field
    about = network.about()
    assert about["weights_sha256"] == hashlib.sha256(stand_in.read_bytes()).hexdigest()
    assert torch_fidelity.__version__ in about["extractor"]


def test_without_the_last_layer_there_is_no_inception_score(stand_in, network, images, tmp_path):
    state = torch.load(stand_in, weights_only=True)
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "trunk.pth")
    features = network.features(images[:5], "images")
    trunk = inception.Inception(tmp_path / "trunk.pth", cache=tmp_path / "features")
    assert "last layer" in trunk.about()["inception_score_left_out"]
    assert torch.equal(trunk.features(images[:5], "images"), features)
    assert "inception_score" not in trunk.scores(features, features)


def test_the_cache_serves_the_same_images_weights_and_precision(stand_in, images, tmp_path):
    """A stopped evaluation continues after its last block."""
    cache = tmp_path / "features"
    exact = inception.Inception(stand_in, cache=cache)
    features, written = exact.features(images[:4], "images"), set(cache.iterdir())
    state = torch.load(stand_in, weights_only=True)
    state["Mixed_7c.branch_pool.conv.weight"] *= 2
    torch.save(state, tmp_path / "other.pth")
    other = inception.Inception(tmp_path / "other.pth", cache=cache)
    assert not torch.equal(other.features(images[:4], "images"), features)
    rough = inception.Inception(stand_in, precision="bf16", cache=cache).features(images[:4], "")
    assert rough.dtype == torch.float32
    assert 0 < (rough - features).abs().max() < 0.2 * features.std()
    assert len(set(cache.iterdir())) == 3
    exact.network = None  # nothing is computed again
    assert torch.equal(exact.features(images[:4], "images"), features)
    with pytest.raises(TypeError):
        exact.features(images[:4].flip(3), "other images")
    assert len(written) == 1


def test_too_few_images(network, images):
    features = network.features(images[:3], "images")
    with pytest.raises(UserError, match="at least 4"):
        network.scores(features, features)


class Gadget:
    def __reduce__(self):
        return (exec, ("raise AssertionError('the file ran code')",))


@pytest.mark.parametrize(
    "content",
    [Gadget(), {"fc.weight": Gadget()}, [torch.zeros(1)], {"a": torch.zeros(1)}, {"a": "text"}],
)
def test_hostile_and_wrong_files(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match="holds no weights"):
        inception.Inception(tmp_path / "file.pth", cache=tmp_path / "features")


@pytest.mark.parametrize("content", [b"no weights", b"", pickle.dumps({"a": 1}, protocol=2), None])
def test_unreadable_files(tmp_path, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="holds no weights"):
        inception.Inception(tmp_path / "file", cache=tmp_path / "features")


def test_the_checksum_of_the_download_is_known():
    assert inception.HASH_PREFIX == "6726825d"


def test_without_network_one_line_says_how_to_get_the_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(inception, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(inception.InceptionMissing, match="--inception FILE") as caught:
        inception.obtain_weights()
    assert "\n" not in str(caught.value)
    (tmp_path / "checkpoints" / "weights.pth").touch()
    assert inception.obtain_weights() == tmp_path / "checkpoints" / "weights.pth"
