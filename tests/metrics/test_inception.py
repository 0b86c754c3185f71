"""The Inception path on a stand-in with random weights: the real network and code, odd scores."""

import hashlib
import pickle

import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from metrics import inception
from metrics.scores import ScoreError


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A weights file of the right form: random, so built without the download."""
    folder = tmp_path_factory.mktemp("inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *_, **__: None,
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):  # so that the signal reaches the last layer
                torch.nn.init.kaiming_normal_(module.weight)
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images():
    stream = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (12, 3, 32, 32), generator=stream, dtype=torch.uint8)


CPU = torch.device("cpu")


def test_scores_of_the_real_path(stand_in, images):
    sets = {"samples": images[:10], "the reference itself": images[2:]}
    scores = inception.inception_scores(sets, images[2:], stand_in, CPU, kernel_subset=4)
    assert scores["samples"]["fid"] > 1e-3
    assert scores["the reference itself"]["fid"] == pytest.approx(0, abs=1e-3)
    for name in sets:
        assert scores[name]["kid_std"] > 0
        assert scores[name]["inception_score"] >= 1
        assert scores[name]["images"] == 10
    about = scores["about"]
    assert about["weights_sha256"] == hashlib.sha256(stand_in.read_bytes()).hexdigest()
    assert torch_fidelity.__version__ in about["extractor"]


def test_without_the_last_layer_there_is_no_inception_score(stand_in, images, tmp_path):
    state = torch.load(stand_in, weights_only=True)
    state["fc.weight"].zero_()
    torch.save(state, tmp_path / "trunk.pth")
    scores = inception.inception_scores(
        {"samples": images[:5]}, images[7:], tmp_path / "trunk.pth", CPU, kernel_subset=4
    )
    assert "inception_score" not in scores["samples"]
    assert "last layer" in scores["about"]["inception_score_left_out"]


def test_too_few_images(stand_in, images):
    with pytest.raises(ScoreError, match="1000"):
        inception.inception_scores({"samples": images}, images, stand_in, CPU)


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
    inception.check_fit(state, stand_in)
    del state["Conv2d_1a_3x3.conv.weight"]
    with pytest.raises(ScoreError, match="does not fit"):
        inception.check_fit(state, "less.pth")


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
