"""Where a network looks: Grad-CAM and integrated gradients for a test image of each class."""

import torch
import torch.nn.functional as F
from matplotlib import colormaps

from attribution import grad_cam, integrated_gradients
from data_tools import to_signed, to_uint8
from engine.plots import save_image_grid
from section_perturbation import one_of_each_class, verdicts

LAYER = 8  # of Grad-CAM
BLUR = 9  # pixels, side of the mean that makes the baseline


def heat(values):
    """(b, h, w) -> RGB (b, 3, h, w) in [-1, 1]: black, red, yellow, white at each one's maximum."""
    scaled = values / values.amax((1, 2), keepdim=True).clamp_min(1e-12)
    colours = torch.from_numpy(colormaps["hot"](scaled.cpu().numpy())[..., :3]).float()
    return colours.permute(0, 3, 1, 2).to(values.device) * 2 - 1


def attribution_section(network, test_set, precision, folder):
    """One image of each class: itself, Grad-CAM over it, integrated gradients of the named class.

    Leaves attribution_....png in `folder`; returns the classes named.
    """
    shown = one_of_each_class(test_set.labels, 1, len(test_set.class_names))
    images = to_signed(test_set.images[shown])
    with torch.no_grad():
        probabilities = network.model(images)[1].float().softmax(1)
    named = probabilities.argmax(1)
    regions = grad_cam(network.model, images, named, LAYER, precision)
    share = regions / regions.amax((1, 2), keepdim=True).clamp_min(1e-12)
    light = 0.2 + 0.8 * share[:, None]
    over = (images + 1) * light - 1
    # The baseline is the image out of focus: to MapNorm a flat one would be no picture at all.
    baseline = F.avg_pool2d(F.pad(images, [BLUR // 2] * 4, mode="reflect"), BLUR, stride=1)
    parts = integrated_gradients(network.model, images, named, baseline, precision=precision)
    pixels = parts.abs().sum(1)
    limit = pixels.flatten(1).quantile(0.99, dim=1)[:, None, None]
    grid = torch.cat([images, over, heat(pixels.minimum(limit))])
    captions = verdicts(probabilities, test_set.class_names) + [""] * (2 * len(shown))
    path = folder / f"attribution_{network.slug}.png"
    title = (
        f"Trained {network.name}: test images and what is named; where it looks (Grad-CAM, layer "
        f"{LAYER}); which pixels count, for or against (integrated gradients)"
    )
    save_image_grid(to_uint8(grid), path, test_set.class_names, title, captions, scale=4)
    print(f"  {path}")
    return {"named": [test_set.class_names[k] for k in named.tolist()]}
