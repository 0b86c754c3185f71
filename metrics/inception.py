"""IS, FID and KID with the Inception network that papers use, through torch-fidelity."""

import hashlib
import socket
import tempfile
import warnings
from pathlib import Path
from urllib.error import URLError

import torch
import torch_fidelity
from torch.hub import get_dir
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from image_sets.cifar10 import DOWNLOAD_STALL_SECONDS
from metrics.scores import KERNEL_SUBSET, KERNEL_SUBSETS, Rows, ScoreError

HASH_PREFIX = URL_INCEPTION_V3.rpartition("-")[2].partition(".")[0]  # of the file's SHA-256
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
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted file can raise anything
        line = str(error).strip().partition("\n")[0]
        raise ScoreError(f"{path} is no readable weights file: {line}") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise ScoreError(f"{path} does not hold a network's weights")
    if "fc.weight" not in state or "Mixed_7c.branch_pool.conv.weight" not in state:
        raise ScoreError(f"{path} does not hold the weights of torch-fidelity's Inception-v3")
    return state, hashlib.sha256(content).hexdigest(), bool(state["fc.weight"].any())


def check_fit(state, path):
    """Raises ScoreError where the weights do not fit torch-fidelity's Inception-v3."""
    with tempfile.TemporaryDirectory() as folder:
        checked = Path(folder) / "inception.pth"
        torch.save(state, checked)
        try:
            FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(checked)
            )
        except (RuntimeError, KeyError) as error:
            line = str(error).strip().partition("\n")[0]
            message = f"{path} does not fit torch-fidelity's Inception-v3: {line}"
            raise ScoreError(message) from None


def inception_scores(sets, reference, weights, device, seed=0, kernel_subset=KERNEL_SUBSET):
    """{name: {"fid", "kid", "kid_std", "inception_score", ...}} of sets against the reference.

    sets: {name: uint8 images (n, 3, h, w)}; reference: the same, (m, 3, h, w). IS: 10 splits; KID:
    100 draws of `kernel_subset` images of each side. Without the last layer in the weights IS is
    left out. Under "about": the extractor, its checksum, and why IS is missing, if it is.
    Raises ScoreError for unusable weights or too few images.
    """
    state, checksum, has_last_layer = read_weights(weights)
    check_fit(state, weights)
    if min(map(len, (*sets.values(), reference))) < kernel_subset:
        raise ScoreError(f"these scores need at least {kernel_subset} images of each side")
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        checked = Path(folder) / "inception.pth"
        torch.save(state, checked)  # what was read safely, and nothing else
        for name, images in sets.items():
            metrics = torch_fidelity.calculate_metrics(
                input1=Rows(images),
                input2=Rows(reference),
                input2_cache_name="reference",  # its features are computed once
                cache_root=str(Path(folder) / "cache"),
                isc=has_last_layer,
                fid=True,
                kid=True,
                kid_subsets=KERNEL_SUBSETS,
                kid_subset_size=kernel_subset,
                isc_splits=10,
                feature_extractor_weights_path=str(checked),
                save_cpu_ram=True,
                cuda=device.type == "cuda",
                verbose=False,
                rng_seed=seed % 2**32,
            )
            scores[name] = {
                "fid": metrics[torch_fidelity.KEY_METRIC_FID],
                "kid": metrics[torch_fidelity.KEY_METRIC_KID_MEAN],
                "kid_std": metrics[torch_fidelity.KEY_METRIC_KID_STD],
                "images": len(images),
            }
            if has_last_layer:
                scores[name]["inception_score"] = metrics[torch_fidelity.KEY_METRIC_ISC_MEAN]
                scores[name]["inception_score_std"] = metrics[torch_fidelity.KEY_METRIC_ISC_STD]
    about = {
        "extractor": f"torch-fidelity {torch_fidelity.__version__}, inception-v3-compat",
        "weights_sha256": checksum,
        "reference_images": len(reference),
    }
    if not has_last_layer:
        about["inception_score_left_out"] = "the weights lack the network's last layer"
    return {**scores, "about": about}
