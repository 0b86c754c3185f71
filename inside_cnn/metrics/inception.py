"""IS, FID and KID with torch-fidelity's Inception network and arithmetic, as in papers.

The features are cached on disk: a stopped evaluation continues, and all generators share the
features of the real images.
"""

import hashlib
import io
import tempfile
from pathlib import Path

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

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import digest_of, write_atomically, writing_to
from inside_cnn.core.progress import with_progress
from inside_cnn.data.download import download
from inside_cnn.metrics.scores import distances, text_of

HASH_PREFIX = URL_INCEPTION_V3.rpartition("-")[2].partition(".")[0]  # of the file's SHA-256
# trunk_digest of the network that FID is defined on, for files in which it is stored otherwise.
TRUNK_DIGEST = "c9ce7f36d5ee9536ecde7e5b5b679a59d152a85abff7981e0d6c0e5d706e3557"
EXTRACTOR = "inception-v3-folded"
CACHE = Path("output/features")
BLOCK = 1000  # images whose features are in one file, of 8 MB
BATCH, CPU_BATCH = 100, 10  # small batches stay in a CPU's cache


class InceptionMissing(UserError):
    """The weights could not be downloaded; the message says how to get them."""


def obtain_weights():
    """Path of torch-fidelity's own weights, downloaded if needed. Raises InceptionMissing."""
    path = Path(get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()  # fails before the download, not after it
        write_atomically(path, download([URL_INCEPTION_V3], HASH_PREFIX))
    except OSError as error:
        raise InceptionMissing(
            f"the Inception weights could not be downloaded ({error}); download {URL_INCEPTION_V3} "
            "on a machine with network access and give its path: --inception FILE"
        ) from None
    return path


def folded_inception(weights):
    """torch-fidelity's Inception-v3 in channels_last, batch normalization folded into convolutions.

    The features differ by rounding only. weights: file object.
    """
    network = FeatureExtractorInceptionV3(
        EXTRACTOR, ["2048"], feature_extractor_weights_path=weights
    )
    for block in network.modules():
        if isinstance(block, BasicConv2d):
            block.conv = fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = torch.nn.Identity()
    return network.to(memory_format=torch.channels_last)


class Inception:
    """The network with the weights of a file, and the cache of its features."""

    def __init__(self, weights, device="cpu"):
        """weights: path of torch-fidelity's weights, with or without the last layer.

        torch-fidelity would execute code in the file. It is loaded safely here, and only its
        tensors are passed on. Raises UserError for any other file.
        """
        self.device = torch.device(device)
        try:
            content = Path(weights).read_bytes()
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            last_layer = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
            state = last_layer | state
            torch.save(state, buffer := io.BytesIO())
            buffer.seek(0)
            self.network = folded_inception(buffer)
            digest = trunk_digest(state)
        except Exception as error:  # a crafted file can raise anything
            reason = getattr(error, "strerror", None) or type(error).__name__
            message = f"{weights} holds no weights of torch-fidelity's Inception-v3: {reason}"
            raise UserError(message) from None
        self.network.to(self.device)
        self.last_layer = state["fc.weight"].float()
        self.has_last_layer = bool(self.last_layer.any())
        self.checksum = hashlib.sha256(content).hexdigest()
        known = self.checksum.startswith(HASH_PREFIX) or digest == TRUNK_DIGEST
        self.note = "" if known else " (not the standard FID network)"

    @torch.no_grad()
    def features(self, images, title):
        """uint8 (n, 3, h, w) -> float32 (n, 2048), the features of the last pooling layer.

        Each block of images has a cached file, named by a digest of the images, the weights and the
        version of the network. Raises UserError if it cannot be written.
        """
        network = f"{EXTRACTOR} of {torch_fidelity.__version__}, {self.checksum}, fp32"
        features = []
        with writing_to(CACHE):
            for block in with_progress(images.split(BLOCK), f"Inception, {title}", BLOCK):
                path = CACHE / f"{digest_of(f'{network} {tuple(block.shape)} ', block)}.safetensors"
                if not path.exists():
                    batches = block.split(CPU_BATCH if self.device.type == "cpu" else BATCH)
                    parts = [self.network(batch.to(self.device))[0].cpu() for batch in batches]
                    write_atomically(path, safetensors_bytes({"features": torch.cat(parts)}))
                features.append(load_file(path)["features"])
        return torch.cat(features)

    def scores(self, features, reference, seed=0):
        """{"fid", "kid", "kid_std", numbers of images} of features (n, 2048) and (m, 2048).

        With the last layer also {"inception_score", "inception_score_std"} over ten splits. KID is
        the kernel distance of `metrics.scores.distances`.
        """
        metrics = distances(features, reference, seed)
        scores = {
            "images": len(features),
            "reference_images": len(reference),
            "fid": metrics["frechet_distance"],
            "kid": metrics["kernel_distance"],
            "kid_std": metrics["kernel_distance_std"],
        }
        if self.has_last_layer:
            logits = features @ self.last_layer.T
            metrics = metric_isc.isc_features_to_metric(logits, splits=10, rng_seed=seed % 2**32)
            scores["inception_score"] = metrics[metric_isc.KEY_METRIC_ISC_MEAN]
            scores["inception_score_std"] = metrics[metric_isc.KEY_METRIC_ISC_STD]
        return scores

    def metadata(self):
        """Metadata of the network, for the file of the scores."""
        extractor = f"torch-fidelity {torch_fidelity.__version__}, {EXTRACTOR}"
        metadata = {"extractor": extractor, "weights_sha256": self.checksum, "precision": "fp32"}
        if not self.has_last_layer:
            metadata["inception_score_left_out"] = "the weights lack the network's last layer"
        return metadata

    def both_protocols(self, samples, train, test, seed=0):
        """{comparison: scores} of uint8 samples, training and test images (n, 3, h, w).

        As in the literature, equally many samples are compared with all training images and with
        all test images. The baseline compares test images with training images. With another
        network than that of the FID the names end with a note.
        """
        scores = {}

        def compare(name, features, reference):
            name += self.note
            scores[name] = self.scores(features, reference, seed)
            print(f"{name}: {text_of(scores[name])}", flush=True)

        test_features = self.features(test, "test images")
        features = self.features(samples[: len(test)], "samples")
        compare("samples against test images", features, test_features)
        train_features = self.features(train, "training images")
        compare("test images against training images", test_features, train_features)
        features = self.features(samples[: len(train)], "samples")
        compare("samples against training images", features, train_features)
        return scores


def trunk_digest(state):
    """SHA-256 of the weights of a state_dict without the last layer, which FID does not use."""
    values = []
    for name in sorted(state):
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            values += [name, state[name].float()]
    return digest_of(*values)
