"""IS, FID and KID with the Inception network that papers use, through torch-fidelity."""

import hashlib
import pickle
import tempfile
import warnings
from pathlib import Path
from urllib.error import URLError

import torch
import torch_fidelity
from torch.hub import get_dir
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from scores import KERNEL_SUBSET, KERNEL_SUBSETS, ScoreError

HOW_TO_GET = (
    f"download {URL_INCEPTION_V3} on a machine with network and give its path: --inception FILE"
)


class InceptionMissing(Exception):
    """The weights are not there and could not be had; the message says how to get them."""


class _Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def obtain_weights():
    """Path of torch-fidelity's own weights, downloaded where need be. Raises InceptionMissing."""
    path = Path(get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), progress=False)
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
            warnings.simplefilter(
                "ignore"
            )  # of odd pickle versions; the contents are checked below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ScoreError(f"{path} is no readable weights file: {first}") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise ScoreError(f"{path} does not hold a network's weights")
    if "fc.weight" not in state or "Mixed_7c.branch_pool.conv.weight" not in state:
        raise ScoreError(f"{path} does not hold the weights of torch-fidelity's Inception-v3")
    return state, hashlib.sha256(content).hexdigest(), bool(state["fc.weight"].any())


def inception_scores(images, reference, weights, device, seed=0, kernel_subset=KERNEL_SUBSET):
    """{inception_score, ..., fid, kid, ...} of uint8 images (n, 3, h, w) against the reference.

    IS: 10 splits; KID: 100 draws of `kernel_subset` images of each side. Without the last layer in
    the weights IS is left out, with the reason. Also what the scores depend on: numbers of images,
    extractor, its checksum. Raises ScoreError.
    """
    state, checksum, has_last_layer = read_weights(weights)
    if min(len(images), len(reference)) < kernel_subset:
        raise ScoreError(f"these scores need at least {kernel_subset} images of each side")
    with tempfile.TemporaryDirectory() as folder:
        checked = Path(folder) / "inception.pth"
        torch.save(state, checked)  # what was read safely, and nothing else
        try:
            found = torch_fidelity.calculate_metrics(
                input1=_Images(images),
                input2=_Images(reference),
                isc=has_last_layer,
                fid=True,
                kid=True,
                kid_subsets=KERNEL_SUBSETS,
                kid_subset_size=kernel_subset,
                isc_splits=10,
                feature_extractor_weights_path=str(checked),
                save_cpu_ram=True,
                cuda=device.type == "cuda",
                cache=False,
                verbose=False,
                rng_seed=seed,
            )
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            raise ScoreError(
                f"{weights} does not fit torch-fidelity's Inception-v3: {first}"
            ) from None
    scores = {
        "fid": found[torch_fidelity.KEY_METRIC_FID],
        "kid": found[torch_fidelity.KEY_METRIC_KID_MEAN],
        "kid_std": found[torch_fidelity.KEY_METRIC_KID_STD],
        "samples": len(images),
        "reference_images": len(reference),
        "extractor": f"torch-fidelity {torch_fidelity.__version__}, inception-v3-compat",
        "weights_sha256": checksum,
    }
    if has_last_layer:
        scores["inception_score"] = found[torch_fidelity.KEY_METRIC_ISC_MEAN]
        scores["inception_score_std"] = found[torch_fidelity.KEY_METRIC_ISC_STD]
    else:
        scores["inception_score_left_out"] = "the weights lack the network's last layer"
    return scores
