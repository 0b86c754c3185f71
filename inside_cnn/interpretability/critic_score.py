"""The critic's score: its mean over sets of images, and how well it separates them."""

import torch
import torch.nn.functional as F

from data_tools import to_signed
from inside_cnn.core.device import Stream, random_stream
from inside_cnn.engine.plots import save_histograms

IMAGES = 2000  # of each set
PATCH = 8  # side of the shuffled patches, in pixels


@torch.no_grad()
def scores_of(network, images):
    """The critic's score of each image: uint8 (n, 3, 32, 32) -> float32 (n,) on the CPU."""
    exact = network.at("fp32")  # bfloat16 rounds scores to about 0.4 %, which makes many equal
    return torch.cat([exact.score(to_signed(batch)).cpu() for batch in images.split(500)])


def auc(positive, negative):
    """Probability that a positive value exceeds a negative one; equal values count half.

    float (n,), float (m,) -> 0 to 1, the area under the ROC curve.
    """
    return (1 + (positive[:, None] - negative).sign().double().mean().item()) / 2


def blurred(images, sigma=2.0):
    """Gaussian blur, edges reflected: uint8 (n, 3, 32, 32) -> the same."""
    reach = torch.arange(-6, 7, device=images.device).float()
    kernel = torch.exp(-reach.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(images.float(), (6, 6, 0, 0), "reflect"), kernel, groups=3)
    x = F.conv2d(F.pad(x, (0, 0, 6, 6), "reflect"), kernel.mT, groups=3)
    return x.round().clamp(0, 255).byte()


def shuffled_patches(images, generator=None):
    """Each image with its 8x8 patches in random order: uint8 (n, 3, 32, 32) -> the same."""
    patches = F.unfold(images.float(), PATCH, stride=PATCH)
    order = torch.rand(len(images), 1, patches.shape[2], generator=generator, device=images.device)
    patches = patches.gather(2, order.argsort(2).expand_as(patches))
    return F.fold(patches, images.shape[2:], PATCH, stride=PATCH).byte()


def baseline_sets(test_images):
    """{name: uint8 (n, 3, 32, 32)}: images that should have low scores."""
    stream = random_stream(test_images.device, 0, Stream.BASELINE_SETS)
    noise = torch.randint(256, test_images.shape, generator=stream, device=test_images.device)
    return {
        "uniform noise": noise.byte(),
        "gray": torch.full_like(test_images[:1], 127),
        "blurred test images": blurred(test_images),
        "test images, patches shuffled": shuffled_patches(test_images, stream),
    }


def score_section(network, image_sets, folder):
    """The network's scores of every set; returns {set: metrics}.

    image_sets: {name: uint8 images}, with "test images". `auc`: the probability that a test image
    has a higher score than an image of the set. Writes critic_score_NETWORK.png to `folder`, if a
    set has several images.
    """
    scores = {name: scores_of(network, images) for name, images in image_sets.items()}
    metrics = {
        name: {
            "mean": round(values.mean().item(), 3),
            "auc": round(auc(scores["test images"], values), 4),
            "images": len(values),
        }
        for name, values in scores.items()
    }
    print(f"critic score, {network.name}: mean; share of test images with a higher score")
    for name, of_set in metrics.items():
        print(f"  {name:<30} {of_set['mean']:9.3f}  {100 * of_set['auc']:6.2f} %")
    path = folder / f"critic_score_{network.slug}.png"
    if plotted := {name: values for name, values in scores.items() if len(values) > 1}:
        save_histograms(plotted, path, "critic score")
    return metrics
