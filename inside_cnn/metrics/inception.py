"""IS, FID and KID with the Inception network that papers use, by torch-fidelity's arithmetic.

The network is torch-fidelity's own. Its features are kept on
disk: a stopped evaluation continues, and all generators share those of the real images.
"""

import hashlib
import io
import socket
import tempfile
from pathlib import Path
from urllib.error import URLError

import torch
import torch_fidelity
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch.hub import get_dir
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity import metric_isc
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    BasicConv2d,
    FeatureExtractorInceptionV3,
)

from inside_cnn.core.device import autocast
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.core.output_folder import writing_to
from inside_cnn.core.progress import with_progress
from inside_cnn.data.cifar10 import DOWNLOAD_STALL_SECONDS
from inside_cnn.metrics.scores import distances

HASH_PREFIX = URL_INCEPTION_V3.rpartition("-")[2].partition(".")[0]  # of the file's SHA-256
EXTRACTOR = "inception-v3-folded"
BLOCK = 1000  # images whose features are in one file
BATCH, CPU_BATCH = 100, 10  # images at once; few, so that they stay in a CPU's cache


class InceptionMissing(UserError):
    """The weights could not be downloaded; the message says how to get them."""


def obtain_weights():
    """Path of torch-fidelity's own weights, downloaded if needed. Raises InceptionMissing."""
    path = Path(get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if path.exists():
        return path
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), HASH_PREFIX, False)
    except (URLError, OSError, RuntimeError) as error:
        raise InceptionMissing(
            f"the Inception weights could not be downloaded ({getattr(error, 'reason', error)}); "
            f"download {URL_INCEPTION_V3} on a machine with network and give its path: "
            "--inception FILE"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return path


class FoldedInception(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3 with each batch normalization folded into its convolution.

    In channels_last. The features differ by rounding alone.
    """

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list, **options)
        for block in self.modules():
            if isinstance(block, BasicConv2d):
                block.conv = fuse_conv_bn_eval(block.conv, block.bn)
                block.bn = torch.nn.Identity()
        self.to(memory_format=torch.channels_last)


class Inception:
    """The network with the weights of a file; cache: the folder of its features."""

    def __init__(self, weights, device="cpu", precision="fp32", cache="output/features"):
        """weights: path of torch-fidelity's weights, with or without the last layer.

        torch-fidelity would run code in the file: it is read safely here, and only its tensors are
        passed on. Raises UserError for a file that is not that.
        """
        self.device, self.precision, self.cache = torch.device(device), precision, Path(cache)
        try:
            content = Path(weights).read_bytes()
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            last_layer = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
            state = last_layer | state
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder) / "inception.pth")
                torch.save(state, path)
                self.network = FoldedInception(
                    EXTRACTOR, ["2048"], feature_extractor_weights_path=path
                )
        except Exception as error:  # a crafted file can raise anything
            why = getattr(error, "strerror", None) or type(error).__name__
            message = f"{weights} holds no weights of torch-fidelity's Inception-v3: {why}"
            raise UserError(message) from None
        self.network.requires_grad_(False).eval().to(self.device)
        self.last_layer = state["fc.weight"].float()
        self.has_last_layer = bool(self.last_layer.any())
        self.checksum = hashlib.sha256(content).hexdigest()
        self.title = f"{EXTRACTOR} of {torch_fidelity.__version__}, {self.checksum}, {precision}"

    def features(self, images, title):
        """uint8 (n, 3, h, w) -> float32 (n, 2048), of the last pooling.

        A file of the cache holds those of a block of images, and is named by a digest of the images
        and of what computes the features. Raises UserError if it cannot be written.
        """
        blocks = images.split(BLOCK)
        paths = [self._path(block) for block in blocks]
        if cached := sum(path.exists() for path in paths):
            print(f"{title}: features of {cached} of {len(paths)} blocks are in {self.cache}")
        features, pairs = [], list(zip(blocks, paths, strict=True))
        with writing_to(self.cache):
            for block, path in with_progress(pairs, f"Inception, {title}", BLOCK):
                if not path.exists():  # asked again: another evaluation may have written it
                    write_atomically(path, safetensors_bytes({"features": self._extract(block)}))
                features.append(load_file(path)["features"])
        return torch.cat(features)

    def _path(self, block):
        sha256 = hashlib.sha256(f"{self.title} {tuple(block.shape)} ".encode())
        sha256.update(block.contiguous().numpy())
        return self.cache / f"{sha256.hexdigest()}.safetensors"

    @torch.no_grad()
    def _extract(self, images):
        batches = images.split(CPU_BATCH if self.device.type == "cpu" else BATCH)
        with autocast(self.device, self.precision):
            return torch.cat([self.network(b.to(self.device))[0].float().cpu() for b in batches])

    def scores(self, features, reference, seed=0):
        """{"fid", "kid", "kid_std", and the numbers of images} of (n, 2048) and (m, 2048).

        With the last layer also {"inception_score", "inception_score_std"} over ten splits. KID: as
        the kernel distance of `metrics.scores.distances`. Raises UserError for too few images.
        """
        metrics = distances(features, reference, seed)
        scores = {"images": len(features), "reference_images": len(reference)}
        scores |= {"fid": metrics["frechet_distance"], "kid": metrics["kernel_distance"]}
        scores["kid_std"] = metrics["kernel_distance_std"]
        if self.has_last_layer:
            logits = features @ self.last_layer.T
            metrics = metric_isc.isc_features_to_metric(logits, splits=10, rng_seed=seed % 2**32)
            scores["inception_score"] = metrics[metric_isc.KEY_METRIC_ISC_MEAN]
            scores["inception_score_std"] = metrics[metric_isc.KEY_METRIC_ISC_STD]
        return scores

    def about(self):
        """What computed the scores."""
        extractor = f"torch-fidelity {torch_fidelity.__version__}, {EXTRACTOR}"
        about = {"extractor": extractor, "weights_sha256": self.checksum}
        about["precision"] = self.precision
        if not self.has_last_layer:
            about["inception_score_left_out"] = "the weights lack the network's last layer"
        return about


def both_protocols(inception, samples, train, test, seed=0):
    """{what against what: scores}: the two comparisons of the literature, and their anchor.

    samples, train, test: uint8 (n, 3, h, w). As many samples as training images against the
    training images; as many as test images against the test images; the test images against the
    training images, which is as near as unseen real images come.
    """
    print("IS, FID and KID: a stopped evaluation continues where it stopped")
    of_test = inception.features(test, "test images")
    of_samples = inception.features(samples[: len(test)], "samples")
    scores = {}

    def compare(name, features, reference):
        scores[name] = inception.scores(features, reference, seed)
        values = ", ".join(f"{field} {value:.6g}" for field, value in scores[name].items())
        print(f"{name}: {values}", flush=True)

    compare("samples against test images", of_samples, of_test)
    of_train = inception.features(train, "training images")
    compare("test images against training images", of_test, of_train)
    of_samples = inception.features(samples[: len(train)], "samples")
    compare("samples against training images", of_samples, of_train)
    return scores
