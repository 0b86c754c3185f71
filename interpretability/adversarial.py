"""Adversarial perturbations: one signed step, projected gradient descent, and noise as a control.

Images are held in pixel levels, 0 to 255, so that "at most 8 levels" is meant to the last bit.
"""

import torch
import torch.nn.functional as F

from engine.device import autocast, random_stream
from layers.double_backward import input_gradient

_STUDY, _PERTURB = 30, 31  # names of random streams


def class_logits(discriminator, levels, precision="fp32"):
    """Class logits, float32 (b, classes), of images in levels: (b, 3, 32, 32) in [0, 255]."""
    with autocast(levels.device, precision):
        return discriminator(levels / 127.5 - 1)[1].float()


@torch.no_grad()
def predict(discriminator, levels, precision="fp32"):
    """class_logits, for those who want no gradient."""
    return class_logits(discriminator, levels, precision)


def loss_gradient(discriminator, levels, classes, precision="fp32", margin=False):
    """Gradient of the loss of `classes` in the pixels, and the class logits on the way to it.

    Up the gradient leads away from the classes, down it toward them. The loss is the cross-entropy;
    with `margin`, the largest other logit minus that of the class, whose gradient does not fade
    where a network is sure.
    levels: (b, 3, 32, 32) in [0, 255]; classes: int64 (b,). Returns float32 (b, 3, 32, 32) and
    float32 (b, num_classes).
    Source of the margin: Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural
    Networks.
    """
    levels = levels.detach().requires_grad_()
    logits = class_logits(discriminator, levels, precision)
    if margin:
        own = logits.gather(1, classes[:, None])
        loss = (logits.scatter(1, classes[:, None], -torch.inf).amax(1) - own[:, 0]).sum()
    else:
        loss = F.cross_entropy(logits, classes, reduction="sum")
    return input_gradient(loss, levels), logits.detach()


def limits(images, epsilon):
    """The lowest and highest level that every pixel may take: uint8 -> two float32 tensors."""
    levels = images.float()
    return (levels - epsilon).clamp_min(0), (levels + epsilon).clamp_max(255)


def random_noise(images, epsilon, generator=None):
    """Every pixel moved by epsilon, up or down at random: the control of the same size.

    images: uint8 (b, 3, 32, 32); epsilon: in levels. Returns float32 levels in [0, 255].
    """
    signs = torch.rand(images.shape, generator=generator, device=images.device) < 0.5
    low, high = limits(images, epsilon)
    return torch.where(signs, low, high)


def signed_step(images, gradient, epsilon, targeted=False):
    """One step of size epsilon by the sign of a loss's gradient.

    Up the loss, away from the classes that it is of; `targeted`: down, toward them.
    images: uint8 (b, 3, 32, 32); gradient: the same shape, of loss_gradient; epsilon: in levels.
    Returns float32 levels in [0, 255].
    Source: Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples.
    """
    low, high = limits(images, epsilon)
    step = -epsilon if targeted else epsilon
    return (images.float() + step * gradient.sign()).clamp(low, high)


def still_going(named, classes, targeted):
    """Of each image, whether its attack goes on: named its class, or if targeted, another."""
    return named != classes if targeted else named == classes


def projected_gradient(
    discriminator,
    images,
    classes,
    epsilon,
    *,
    targeted=False,
    steps=20,
    step_size=None,
    generator=None,
    precision="fp32",
    margin=False,
):
    """Steps by the sign of the gradient from a random start, never further than epsilon.

    An image is left alone once it is where it should be: named anything but its class, or if
    `targeted`, named so. That is decided in float32 whatever the precision of the gradients:
    bfloat16 takes some images for misled that are not.
    images: uint8 (b, 3, 32, 32); classes: int64 (b,), to leave or to reach; epsilon and step_size:
    in levels, step_size by default 2.5 epsilon / steps; `generator` draws the start; margin: as in
    loss_gradient. Returns float32 levels in [0, 255].
    Source: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks.
    """
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    step = -step_size if targeted else step_size
    low, high = limits(images, epsilon)
    start = torch.rand(images.shape, generator=generator, device=images.device)
    levels = torch.lerp(low, high, start)
    going = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        current, wanted = levels[going], classes[going]
        gradient, logits = loss_gradient(discriminator, current, wanted, precision, margin)
        if precision != "fp32":
            logits = predict(discriminator, current)
        going_on = still_going(logits.argmax(1), wanted, targeted)
        going = going[going_on]
        if len(going) == 0:
            break
        moved = current[going_on] + step * gradient[going_on].sign()
        levels[going] = moved.clamp(low[going], high[going])
    return levels


def perturb(discriminator, images, classes, epsilon, attack, targeted=False):
    """Images moved away from the classes, or, if `targeted`, toward them.

    images: uint8 (b, 3, 32, 32); classes: int64 (b,); epsilon: in levels, at 0 nothing moves;
    attack: `noise`, to which classes are nothing, `step`, or `pgd`, of 20 steps up the margin. What
    is random is the same at every call. Returns float32 levels in [0, 255].
    Raises ValueError for another attack.
    """
    stream = random_stream(images.device, 0, _PERTURB)
    if attack == "noise":
        return random_noise(images, epsilon, stream)
    if attack == "step":
        gradient, _ = loss_gradient(discriminator, images.float(), classes)
        return signed_step(images, gradient, epsilon, targeted)
    if attack == "pgd":
        return projected_gradient(
            discriminator,
            images,
            classes,
            epsilon,
            targeted=targeted,
            generator=stream,
            margin=True,
        )
    raise ValueError(f"attack must be noise, step or pgd, not {attack!r}")


ATTACKS = ("noise", "step", "pgd", "step_targeted", "pgd_targeted")


def study(
    discriminator,
    images,
    labels,
    epsilons,
    num_classes,
    *,
    seed=0,
    batch_size=250,
    precision="fp32",
    progress=None,
):
    """What each attack at each strength makes the network say.

    images: uint8 (n, 3, 32, 32); labels: int64 (n,); epsilons: levels, ascending, above 0. The
    targeted attacks aim at (label + 1) % num_classes. precision: of the gradients; the names are
    always given in float32, since bfloat16 rounds the smallest perturbations away.
    Returns {attack: int64 (len(epsilons), n), the classes named} and the images of `pgd`, a list of
    float32 levels (n, 3, 32, 32) for each epsilon. Every name is that of the finished image, looked
    at again. PGD climbs the margin; at a larger epsilon it goes on only with the images that
    withstood the smaller ones: what misled within 2 levels is within 4.
    """
    named = {attack: [] for attack in ATTACKS}
    pgd_levels = []
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    for batch_index, (batch, batch_labels) in enumerate(batches):
        batch_named, batch_levels = _study_batch(
            discriminator,
            batch,
            batch_labels,
            targets=(batch_labels + 1) % num_classes,
            epsilons=epsilons,
            stream=random_stream(images.device, seed, _STUDY, batch_index),
            precision=precision,
            progress=progress,
        )
        for attack, rows in batch_named.items():
            named[attack].append(rows)
        pgd_levels.append(batch_levels)
    named = {attack: torch.cat(parts, dim=1) for attack, parts in named.items()}
    return named, [torch.cat(parts) for parts in zip(*pgd_levels, strict=True)]


def _study_batch(discriminator, images, labels, *, targets, epsilons, stream, precision, progress):
    def name(levels):
        return predict(discriminator, levels).argmax(1)

    clean = images.float()
    goals = {"pgd": (labels, False), "pgd_targeted": (targets, True)}
    levels = dict.fromkeys(goals, clean)
    latest = dict.fromkeys(goals, name(clean))
    named = {attack: [] for attack in ATTACKS}
    pgd_levels = []
    # A signed step's direction does not depend on its size.
    away, _ = loss_gradient(discriminator, clean, labels, precision)
    toward, _ = loss_gradient(discriminator, clean, targets, precision)
    for epsilon in epsilons:
        moved = {
            "noise": random_noise(images, epsilon, stream),
            "step": signed_step(images, away, epsilon),
            "step_targeted": signed_step(images, toward, epsilon, targeted=True),
        }
        for attack, attacked in moved.items():
            named[attack].append(name(attacked))
        for attack, (classes, targeted) in goals.items():
            left = still_going(latest[attack], classes, targeted).nonzero().flatten()
            if len(left):
                levels[attack] = levels[attack].clone()
                levels[attack][left] = projected_gradient(
                    discriminator,
                    images[left],
                    classes[left],
                    epsilon,
                    targeted=targeted,
                    generator=stream,
                    precision=precision,
                    margin=True,
                )
                latest[attack] = name(levels[attack])
            named[attack].append(latest[attack])
        pgd_levels.append(levels["pgd"])
        if progress is not None:
            progress.step()
    return {attack: torch.stack(rows) for attack, rows in named.items()}, pgd_levels


def smallest_flip(right, epsilons):
    """The smallest epsilon that misled each image: bool (e, n) -> float32 (n,), inf for none."""
    flipped = ~right
    first = flipped.int().argmax(0)
    smallest = torch.tensor(epsilons, dtype=torch.float32)[first.cpu()]
    return torch.where(flipped.any(0).cpu(), smallest, torch.inf)
