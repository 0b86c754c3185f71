"""Where a discriminator looks: Grad-CAM and integrated gradients of a class logit."""

import torch
import torch.nn.functional as F
from matplotlib import colormaps

from data_tools import to_signed, to_uint8
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.interpretability.adversarial_figures import verdicts
from inside_cnn.layers.double_backward import input_gradient


def grad_cam(network, images, classes, layer=8):
    """How much each region of a layer's map speaks for the class.

    The maps of all features, weighted by the mean gradient of the class logit with respect to each,
    summed, negative sums set to 0; enlarged bilinearly to the image.
    images: (b, 3, 32, 32) in [-1, 1]; classes: int64 (b,) -> float32 (b, 32, 32), at least 0.
    Raises ValueError for a layer that is not 1 to 8.
    Source: Selvaraju et al. 2017, Grad-CAM.
    """
    with torch.no_grad():
        features = network.activations(images, layer)
    features = features.detach().requires_grad_()
    _, logits = network.from_activations(features, layer)
    gradient = input_gradient(logits.gather(1, classes[:, None]).sum(), features).float()
    weights = gradient.mean((2, 3), keepdim=True)
    regions = (weights * features.detach().float()).sum(1, keepdim=True).clamp_min(0)
    regions = F.interpolate(regions, images.shape[2:], mode="bilinear", align_corners=False)
    return regions.squeeze(1)


def integrated_gradients(network, images, classes, baseline=0.0, steps=64, chunk=256):
    """How much each pixel adds to the class logit on the straight way from a baseline to the image.

    (image - baseline) times the mean gradient over `steps` points of the way, each the middle of
    its part. The sum over an image is the logit's rise from baseline to image, up to the error of
    the steps.
    The baseline should not be flat: LayerNorm raises the faintest contrast to full, so nearly all
    of the rise would lie in the first step away from it.
    images: (b, 3, 32, 32) in [-1, 1]; classes: int64 (b,); baseline: a number or a tensor that
    broadcasts -> float32 (b, 3, 32, 32). chunk: images looked at at once.
    Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks.
    """
    baseline = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    baseline = baseline.expand_as(images)
    total = torch.zeros_like(images)
    for part in torch.arange(len(images), device=images.device).split(max(1, chunk // steps)):
        shares = (torch.arange(steps, device=images.device) + 0.5) / steps
        points = torch.lerp(
            baseline[part][:, None], images[part][:, None], shares[:, None, None, None]
        )
        points = points.flatten(0, 1).requires_grad_()
        logits = network.logits(points)
        wanted = classes[part].repeat_interleave(steps)
        gradient = input_gradient(logits.gather(1, wanted[:, None]).sum(), points)
        total[part] = gradient.view(len(part), steps, *images.shape[1:]).mean(1)
    return (images - baseline) * total


LAYER = 8  # of Grad-CAM
BLUR = 9  # pixels, side of the mean that makes the baseline


def heat(values):
    """(b, h, w) -> RGB (b, 3, h, w) in [-1, 1]: black, red, yellow, white at each one's maximum."""
    scaled = values / values.amax((1, 2), keepdim=True).clamp_min(1e-12)
    colours = torch.from_numpy(colormaps["hot"](scaled.cpu().numpy())[..., :3]).float()
    return colours.permute(0, 3, 1, 2).to(values.device) * 2 - 1


def attribution_section(network, test_set, folder):
    """One image of each class: itself, Grad-CAM over it, integrated gradients of the named class.

    Leaves attribution_....png in `folder`; returns the classes named.
    """
    shown, columns, some = test_set.columns(1)
    images = to_signed(test_set.images[shown])
    with torch.no_grad():
        probabilities = network.at("fp32").logits(images).softmax(1)
    named = probabilities.argmax(1)
    regions = grad_cam(network, images, named, LAYER)
    share = regions / regions.amax((1, 2), keepdim=True).clamp_min(1e-12)
    light = 0.2 + 0.8 * share[:, None]
    over = (images + 1) * light - 1
    # The baseline is the image out of focus: to LayerNorm a flat one would be no picture at all.
    baseline = F.avg_pool2d(F.pad(images, [BLUR // 2] * 4, mode="reflect"), BLUR, stride=1)
    parts = integrated_gradients(network, images, named, baseline)
    pixels = parts.abs().sum(1)
    limit = pixels.flatten(1).quantile(0.99, dim=1)[:, None, None]
    grid = torch.cat([images, over, heat(pixels.minimum(limit))])
    captions = verdicts(probabilities, test_set.class_names) + [""] * (2 * len(shown))
    path = folder / f"attribution_{network.slug}.png"
    title = (
        f"Trained {network.name}: test images and what is named; where it looks (Grad-CAM, layer "
        f"{LAYER}); which pixels count, for or against (integrated gradients){some}"
    )
    save_image_grid(to_uint8(grid), path, columns, title, captions, scale=4)
    print(f"  {path}")
    return {"named": [test_set.class_names[k] for k in named.tolist()]}
