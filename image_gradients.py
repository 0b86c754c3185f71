"""Images by gradient: perturbed to mislead a discriminator, or climbed until they excite it."""

import torch
import torch.nn.functional as F

from engine.device import autocast
from layers.double_backward import input_gradient


def perturb(discriminator, images, labels, epsilon, precision="fp32"):
    """One signed gradient step of each image toward the class after its own.

    images: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,); epsilon: in levels of 0 to 255.
    Returns (perturbed images, gradients, class logits of the images): the first two like images,
    the gradients those of the cross-entropy toward the alternate label (y + 1) % 10, which the step
    lowers; the logits float32 (b, classes).
    Source: Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples, toward a target.
    """
    images = images.detach().requires_grad_()
    with autocast(images.device, precision):
        _, class_logits = discriminator(images)
    alternate = (labels + 1) % class_logits.shape[1]
    class_logits = class_logits.float()
    loss = F.cross_entropy(class_logits, alternate, reduction="sum")
    gradients = input_gradient(loss, images)
    step = 2 * epsilon / 255  # [-1, 1] is twice as wide as [0, 1]
    perturbed = (images.detach() - step * gradients.sign()).clamp(-1, 1)
    return perturbed, gradients, class_logits.detach()


def maximise(objective, images, steps=200, lr=0.1, decay=0.001, progress=None):
    """Gradient ascent on the images: x += lr d objective / d x - decay x |x|, clamped to [-1, 1].

    objective: images (b, 3, 32, 32) -> values (b,), the value of each image by itself.
    Returns (images, values before (b,), values after (b,)).
    """
    images = images.clone()
    before = None
    for _ in range(steps):
        images.requires_grad_()
        values = objective(images)
        before = values.detach() if before is None else before
        gradient = input_gradient(values.sum(), images)
        images = images.detach()
        images = (images + lr * gradient - decay * images * images.abs()).clamp(-1, 1)
        if progress is not None:
            progress.step()
    with torch.no_grad():
        return images, before, objective(images)


def class_objective(discriminator, precision="fp32"):
    """Image i's value is its logit of class i % num_classes."""

    def values(images):
        with autocast(images.device, precision):
            logits = discriminator(images)[1].float()
        index = torch.arange(len(images), device=images.device) % logits.shape[1]
        return logits.gather(1, index[:, None]).squeeze(1)

    return values


def feature_objective(discriminator, layer, precision="fp32", features=None, centre=False):
    """Image i's value is a feature of the layer; no later layer runs.

    features: int64 (n,), image i stands for features[i % n]; None: for feature i % width.
    centre: its unit in the middle of the map, row and column size // 2, not the largest one.
    """

    def values(images):
        with autocast(images.device, precision):
            maps = discriminator.features(images, layer)
            if centre:
                pooled = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].float()
            else:
                pooled = discriminator.pool(maps).float()
        index = torch.arange(len(images), device=images.device)
        if features is None:
            index = index % pooled.shape[1]
        else:
            index = features.to(images.device)[index % len(features)]
        return pooled.gather(1, index[:, None]).squeeze(1)

    return values
