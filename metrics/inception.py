"""IS, FID and KID with the Inception network that papers use, by torch-fidelity's arithmetic.

The network is torch-fidelity's own, made half as fast again on a CPU; what it makes of an image is
kept on disk.
"""

import hashlib
import io
import socket
import tempfile
import warnings
from pathlib import Path
from urllib.error import URLError

import torch
import torch_fidelity
from torch.hub import get_dir
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    BasicConv2d,
    FeatureExtractorInceptionV3,
)
from torch_fidelity.utils import create_feature_extractor

from engine.device import autocast
from image_sets.cifar10 import DOWNLOAD_STALL_SECONDS
from metrics.feature_cache import FeatureCache
from metrics.scores import ScoreError, distances, fidelity

HASH_PREFIX = URL_INCEPTION_V3.rpartition("-")[2].partition(".")[0]  # of the file's SHA-256
EXTRACTOR = "inception-v3-folded"
# Images at once. On a CPU few: what a layer makes of them then stays in the chip's cache.
BATCH = {"cpu": 10}
BATCH_ELSEWHERE = 100
HOW_TO_GET = (
    f"download {URL_INCEPTION_V3} on a machine with network and give its path: --inception FILE"
)


class InceptionMissing(Exception):
    """The weights are not there and could not be had; the message says how to get them."""


def obtain_weights():
    """Path of torch-fidelity's own weights, downloaded where need be. Raises InceptionMissing."""
    path = Path(get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)
            try:
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), HASH_PREFIX, False)
            finally:
                socket.setdefaulttimeout(before)
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", error)
            message = f"the Inception weights could not be downloaded ({reason}); {HOW_TO_GET}"
            raise InceptionMissing(message) from None
    return path


def read_weights(path):
    """(state dict, SHA-256, whether the last layer is there) of a weights file, read safely.

    torch-fidelity itself would unpickle whatever the file holds. Raises ScoreError.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            # Of odd pickle versions; the contents are checked below.
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted file can raise anything
        why = getattr(error, "strerror", None) or type(error).__name__  # torch's words are advice
        raise ScoreError(f"{path} is no readable weights file: {why}") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise ScoreError(f"{path} does not hold a network's weights")
    if "Mixed_7c.branch_pool.conv.weight" not in state:
        raise ScoreError(f"{path} does not hold the weights of torch-fidelity's Inception-v3")
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)} | state
    return state, hashlib.sha256(content).hexdigest(), bool(state["fc.weight"].any())


class FoldedInception(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3 with each batch normalisation folded into its convolution.

    In channels_last. The features differ by rounding alone.
    """

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list, **options)
        for block in self.modules():
            if isinstance(block, BasicConv2d):
                block.conv = fuse_conv_bn_eval(block.conv, block.bn)
                block.bn = torch.nn.Identity()
        self.to(memory_format=torch.channels_last)


torch_fidelity.register_feature_extractor(EXTRACTOR, FoldedInception)


class Inception:
    """The network with the weights of a file, and a cache of what it made of images before."""

    def __init__(self, weights, device="cpu", precision="fp32", cache="output/features"):
        """weights: path of torch-fidelity's weights, with or without the last layer.

        Raises ScoreError for a file that is none, and where the cache's folder cannot be made.
        """
        state, self.checksum, self.has_last_layer = read_weights(weights)
        self.last_layer = state["fc.weight"].float()
        self.device, self.precision = torch.device(device), precision
        try:
            with tempfile.TemporaryDirectory() as folder:
                checked = Path(folder) / "inception.pth"
                torch.save(state, checked)  # what was read safely, and nothing else
                self.network = create_feature_extractor(
                    EXTRACTOR,
                    ["2048"],
                    cuda=self.device.type == "cuda",
                    feature_extractor_weights_path=str(checked),
                    verbose=False,
                )
        except (RuntimeError, KeyError, OSError) as error:
            line = str(error).strip().partition("\n")[0]
            message = f"{weights} does not fit torch-fidelity's Inception-v3: {line}"
            raise ScoreError(message) from None
        maker = f"{EXTRACTOR} of {torch_fidelity.__version__}, {self.checksum}, {precision}"
        self.cache = FeatureCache(cache, maker)

    def features(self, images, title):
        """uint8 (n, 3, h, w) -> float32 (n, 2048), of the last pooling."""
        batch = BATCH.get(self.device.type, BATCH_ELSEWHERE)
        return self.cache.features(images, self._extract, batch, f"Inception, {title}")

    @torch.no_grad()
    def _extract(self, batch):
        with autocast(self.device, self.precision):
            return self.network(batch.to(self.device))[0]

    def scores(self, features, reference, seed=0):
        """{"fid", "kid", "kid_std", and the numbers of images} of (n, 2048) and (m, 2048).

        With the last layer also {"inception_score", "inception_score_std"} over ten splits. KID: as
        the kernel distance of `metrics.scores.distances`. Raises ScoreError for too few images.
        """
        found = distances(features, reference, seed)
        scores = {
            "images": len(features),
            "reference_images": len(reference),
            "fid": found["frechet_distance"],
            "kid": found["kernel_distance"],
            "kid_std": found["kernel_distance_std"],
        }
        if self.has_last_layer:
            logits = features @ self.last_layer.T
            found = fidelity(logits, logits, seed, isc=True, isc_splits=10)
            scores["inception_score"] = found[torch_fidelity.KEY_METRIC_ISC_MEAN]
            scores["inception_score_std"] = found[torch_fidelity.KEY_METRIC_ISC_STD]
        return scores

    def about(self):
        """What the scores were made with."""
        about = {
            "extractor": f"torch-fidelity {torch_fidelity.__version__}, {EXTRACTOR}",
            "weights_sha256": self.checksum,
            "precision": self.precision,
        }
        if not self.has_last_layer:
            about["inception_score_left_out"] = "the weights lack the network's last layer"
        return about


def both_protocols(inception, samples, train, test, seed=0):
    """{what against what: scores}: the two comparisons of the literature, and their anchor.

    samples, train, test: uint8 (n, 3, h, w). As many samples as training images against the
    training images; as many as test images against the test images; the test images against the
    training images, which is as near as unseen real images come.
    """
    print("IS, FID and KID: every image passes through Inception once; stopped, it goes on there")
    of_test = inception.features(test, "test images")
    of_samples = inception.features(samples[: len(test)], "samples")
    scores = {}

    def compare(name, features, reference):
        scores[name] = inception.scores(features, reference, seed)
        told = ", ".join(f"{field} {value:.6g}" for field, value in scores[name].items())
        print(f"{name}: {told}", flush=True)

    compare("samples against test images", of_samples, of_test)
    of_train = inception.features(train, "training images")
    compare("test images against training images", of_test, of_train)
    of_samples = inception.features(samples[: len(train)], "samples")
    compare("samples against training images", of_samples, of_train)
    return scores
