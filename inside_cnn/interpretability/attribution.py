"""Attribution of a class logit to the image: Grad-CAM and integrated gradients.

The head of the discriminators takes the maximum of each map, so only one position of each map
contributes to the logit: a bright region need not have contributed.
"""

import torch
import torch.nn.functional as F
from matplotlib import colormaps

from data_tools import to_signed, to_uint8
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.interpretability.adversarial_figures import prediction_captions
from inside_cnn.interpretability.network import as_maps, layer_title
from inside_cnn.layers.double_backward import input_gradient

BLUR = 9  # pixels, side of the mean filter that makes the baseline


def grad_cam(network, images, classes, layer):
    """Which regions of a layer's map increase the class logit.

    The maps of all features, weighted by the mean gradient of the class logit with respect to each,
    summed, negative sums set to 0, enlarged bilinearly to the image.
    images: (b, 3, 32, 32) in [-1, 1]; classes: int64 (b,) -> float32 (b, 32, 32), at least 0.
    Source: Selvaraju et al. 2017, Grad-CAM.
    """
    logits, features = network.logits_from(images, layer)
    gradient = input_gradient(logits.gather(1, classes[:, None]).sum(), features)
    gradient, maps = (as_maps(each.detach()).float() for each in (gradient, features))
    regions = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).clamp_min(0)
    regions = F.interpolate(regions, images.shape[2:], mode="bilinear", align_corners=False)
    return regions.squeeze(1)


def integrated_gradients(network, images, classes, baseline, steps=64):
    """Contribution of each pixel to the rise of the class logit from a baseline to the image.

    (image - baseline) times the mean gradient at `steps` midpoints of the line between them.
    images, baseline: (b, 3, 32, 32) in [-1, 1]; classes: int64 (b,) -> float32 (b, 3, 32, 32).
    Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks.
    """
    total = torch.zeros_like(images)
    for step in range(steps):
        points = torch.lerp(baseline, images, (step + 0.5) / steps).requires_grad_()
        logits = network.logits(points)
        total += input_gradient(logits.gather(1, classes[:, None]).sum(), points)
    return (images - baseline) * total / steps


def last_maps(network):
    """The last layer with a map of several rows and columns that the logits depend on, or None."""
    for layer, (_, h, w) in reversed(network.shapes.items()):
        if min(h, w) > 1 and network.logits_from(network.start, layer)[0].requires_grad:
            return layer
    return None


def attribution_section(network, test_set, folder):
    """One image of each class, Grad-CAM and integrated gradients of the predicted class.

    Writes attribution_NETWORK.png to `folder`; returns the predicted classes.
    """
    rows, columns, note = test_set.columns(1)
    images = to_signed(test_set.images[rows])
    with torch.no_grad():
        probabilities = network.at("fp32").logits(images).softmax(1)
    predicted = probabilities.argmax(1)
    layer = last_maps(network)
    regions = grad_cam(network, images, predicted, layer)[:, None]
    share = regions / regions.amax((2, 3), keepdim=True).clamp_min(1e-12)
    overlay = (images + 1) * (0.2 + 0.8 * share) - 1
    # A blurred baseline. LayerNorm scales the faintest contrast up, so from a flat one nearly all
    # of the rise would be in the first step.
    baseline = F.avg_pool2d(F.pad(images, [BLUR // 2] * 4, mode="reflect"), BLUR, stride=1)
    pixels = integrated_gradients(network, images, predicted, baseline).abs().sum(1)
    limit = pixels.flatten(1).quantile(0.99, dim=1)[:, None, None]
    heat = torch.from_numpy(colormaps["hot"]((pixels / limit).cpu().numpy())[..., :3])
    heat = heat.float().permute(0, 3, 1, 2).to(images.device) * 2 - 1
    captions = prediction_captions(probabilities, test_set.class_names) + [""] * (2 * len(rows))
    path, name = folder / f"attribution_{network.slug}.png", network.title
    name = name[0].upper() + name[1:] if network.has_scores else name
    title = (
        f"{name}: test images and predictions; regions that support the "
        f"prediction (Grad-CAM, {layer_title(layer)}); pixels that matter (integrated "
        f"gradients){note}"
    )
    grid = to_uint8(torch.cat([images, overlay, heat]))
    save_image_grid(grid, path, columns, title, captions, scale=4)
    return {"named": [test_set.class_names[k] for k in predicted.tolist()]}
