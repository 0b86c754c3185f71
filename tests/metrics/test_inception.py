"""The Inception path on a stand-in with random weights: the real network and code, odd scores."""

import hashlib
import pickle

import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from metrics import inception, scores
from metrics.scores import ScoreError
from random_inception import write_random_weights


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
        input1=scores.Rows(images),
        input2=scores.Rows(images[3:]),
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
    zeros = {name: torch.zeros_like(state[name]) for name in ("fc.weight", "fc.bias")}
    none = {name: state[name] for name in state if name not in zeros}
    features = network.features(images[:5], "images")
    for name, content in {"zeros.pth": state | zeros, "none.pth": none}.items():
        torch.save(content, tmp_path / name)
        trunk = inception.Inception(tmp_path / name, cache=tmp_path / "features")
        assert "last layer" in trunk.about()["inception_score_left_out"]
        assert torch.equal(trunk.features(images[:5], "images"), features)
    assert "inception_score" not in trunk.scores(features, features)


def test_other_weights_find_nothing_in_the_cache(stand_in, network, images, tmp_path):
    exact = network.features(images[:2], "images")
    state = torch.load(stand_in, weights_only=True)
    state["Mixed_7c.branch_pool.conv.weight"] *= 2
    torch.save(state, tmp_path / "other.pth")
    other = inception.Inception(tmp_path / "other.pth", cache=tmp_path / "features")
    assert not torch.equal(other.features(images[:2], "images"), exact)


def test_bf16_is_kept_apart(stand_in, network, images, tmp_path):
    rough = inception.Inception(stand_in, precision="bf16", cache=tmp_path / "features")
    exact = network.features(images[:4], "images")
    features = rough.features(images[:4], "images")
    assert features.dtype == torch.float32
    assert 0 < (features - exact).abs().max() < 0.2 * exact.std()


def test_too_few_images(network, images):
    features = network.features(images[:3], "images")
    with pytest.raises(ScoreError, match="at least 4"):
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
    with pytest.raises(ScoreError):
        inception.read_weights(tmp_path / "file.pth")


def test_unreadable_files(tmp_path):
    (tmp_path / "text").write_text("no weights")
    (tmp_path / "empty").touch()
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    for name in ("text", "empty", "pickle", "absent"):
        with pytest.raises(ScoreError):
            inception.read_weights(tmp_path / name)


def test_weights_of_another_form(stand_in, tmp_path):
    state = torch.load(stand_in, weights_only=True)
    del state["Conv2d_1a_3x3.conv.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ScoreError, match="does not fit"):
        inception.Inception(tmp_path / "less.pth", cache=tmp_path / "features")


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
