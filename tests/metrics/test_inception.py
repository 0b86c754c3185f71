"""The Inception scores with random weights: the real network and code."""

import hashlib
import pickle

import pytest
import torch
import torch_fidelity
from torch.utils.data import Subset
from torch_fidelity import metric_isc
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from inside_cnn.core.errors import UserError
from inside_cnn.metrics import inception, scores


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of torch-fidelity's form, without its download."""
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
        elif isinstance(module, torch.nn.BatchNorm2d):  # so that there is something to fold
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.8, 1.2)
            module.bias.normal_(std=0.1)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(weights):
    return inception.Inception(weights)


@pytest.fixture
def images():
    """Each has one color, so that even the predictions of random weights differ."""
    stream = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (6, 3, 1, 1), generator=stream, dtype=torch.uint8)
    return colors.expand(6, 3, 32, 32).contiguous()


def test_scores_equal_those_of_torch_fidelity(weights, network, images, monkeypatch):
    """Its network is not folded. The Inception score has two splits: one image has a score of 1."""
    monkeypatch.setattr(scores, "KERNEL_SUBSET", 4)
    of_splits = metric_isc.isc_features_to_metric

    def of_two_splits(logits, splits, *args, **options):
        assert splits == 10
        return of_splits(logits, 2, *args, **options)

    monkeypatch.setattr(metric_isc, "isc_features_to_metric", of_two_splits)
    theirs = torch_fidelity.calculate_metrics(
        input1=Subset(images, range(6)),
        input2=Subset(images, range(2, 6)),
        isc=True,
        fid=True,
        kid=True,
        kid_subsets=scores.KERNEL_SUBSETS,
        kid_subset_size=4,
        feature_extractor_weights_path=str(weights),
        save_cpu_ram=True,
        cuda=False,
        cache=False,
        verbose=False,
        rng_seed=3,
    )
    features = network.features(images, "images")
    ours = network.scores(features, features[2:], seed=3)
    assert (ours["images"], ours["reference_images"]) == (6, 4)
    for field, key in {
        "fid": torch_fidelity.KEY_METRIC_FID,
        "kid": torch_fidelity.KEY_METRIC_KID_MEAN,
        "kid_std": torch_fidelity.KEY_METRIC_KID_STD,
        "inception_score": torch_fidelity.KEY_METRIC_ISC_MEAN,
        "inception_score_std": torch_fidelity.KEY_METRIC_ISC_STD,
    }.items():
        assert ours[field] == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), field
    assert ours["inception_score"] > 1.01
    metadata = network.metadata()
    assert metadata["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert torch_fidelity.__version__ in metadata["extractor"]


def test_a_network_without_the_last_layer(weights, network, images, tmp_path, monkeypatch):
    """It has no Inception score. It may be the standard network, by its other weights:
    torchvision's Inception has the same layout.
    """
    assert network.note == " (not the standard FID network)"
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(inception, "TRUNK_DIGEST", inception.trunk_digest(state))
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "trunk.pth")
    trunk = inception.Inception(tmp_path / "trunk.pth")
    assert trunk.note == ""
    assert "last layer" in trunk.metadata()["inception_score_left_out"]
    features = network.features(images[:2], "images")
    assert torch.equal(trunk.features(images[:2], "images"), features)
    assert "inception_score" not in trunk.scores(features, features)


def test_cached_features_belong_to_images_and_weights(weights, images, tmp_path):
    network = inception.Inception(weights)
    images = images[:2]
    features = network.features(images, "images")
    assert len(list(inception.CACHE.iterdir())) == 1
    state = torch.load(weights, weights_only=True)
    state["Mixed_7c.branch_pool.conv.weight"] *= 2
    torch.save(state, tmp_path / "other.pth")
    other = inception.Inception(tmp_path / "other.pth")
    assert not torch.equal(other.features(images, "images"), features)
    assert len(list(inception.CACHE.iterdir())) == 2
    network.network = None  # nothing is computed again
    assert torch.equal(network.features(images, "images"), features)
    with pytest.raises(TypeError):
        network.features(images.flip(0), "other images")


class Gadget:
    def __reduce__(self):
        return (exec, ("raise AssertionError('the file ran code')",))


@pytest.mark.parametrize(
    "content",
    [
        *(Gadget(), {"fc.weight": Gadget()}),
        *([torch.zeros(1)], {"a": torch.zeros(1)}, {"a": "text"}),
        *(b"text", b"", pickle.dumps({"a": 1}, protocol=2)),
    ],
)
def test_hostile_and_other_files_are_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    for file in (path, tmp_path / "absent"):
        with pytest.raises(UserError, match="holds no weights"):
            inception.Inception(file)


def test_failed_download_names_the_remedy(monkeypatch, tmp_path):
    assert inception.HASH_PREFIX == "6726825d"
    monkeypatch.setattr(inception, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(inception.InceptionMissing, match="--inception FILE") as caught:
        inception.obtain_weights()
    assert "\n" not in str(caught.value)
    (tmp_path / "checkpoints" / "weights.pth").touch()
    assert inception.obtain_weights() == tmp_path / "checkpoints" / "weights.pth"
