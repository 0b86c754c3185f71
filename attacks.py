"""Adversarial perturbations: one signed step, projected gradient descent, and noise as a control.

Images are held in pixel levels, 0 to 255, so that "at most 8 levels" is meant to the last bit.
"""

import torch
import torch.nn.functional as F

import runtime
from second_order import input_gradient


def logits_of(discriminator, levels, precision="fp32"):
    """Class logits, float32 (b, classes), of images in levels: (b, 3, 32, 32) in [0, 255]."""
    with runtime.autocast(levels.device, precision):
        return discriminator(levels / 127.5 - 1)[1].float()


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


def signed_step(discriminator, images, labels, epsilon, targets=None, precision="fp32"):
    """One step of size epsilon by the sign of the gradient.

    images: uint8 (b, 3, 32, 32); labels: int64 (b,); epsilon: in levels; targets: int64 (b,), the
    classes to move to, or None: away from the labels. Returns float32 levels in [0, 255].
    Source: Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples.
    """
    low, high = limits(images, epsilon)
    gradient = _ascent(discriminator, images.float(), labels, targets, precision)
    return (images.float() + epsilon * gradient.sign()).clamp(low, high)


def projected_gradient(
    discriminator,
    images,
    labels,
    epsilon,
    targets=None,
    steps=20,
    step_size=None,
    generator=None,
    precision="fp32",
):
    """Steps by the sign of the gradient from a random start, never further than epsilon.

    An image is left alone once it is where it should be: with `targets`, named so, without, named
    anything but its label. step_size: in levels, by default 2.5 epsilon / steps. The rest as
    signed_step; `generator` draws the start.
    Source: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks.
    """
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    low, high = limits(images, epsilon)
    start = torch.rand(images.shape, generator=generator, device=images.device)
    levels = torch.lerp(low, high, start)
    going = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        wanted = None if targets is None else targets[going]
        gradient, logits = _ascent(
            *(discriminator, levels[going], labels[going], wanted, precision), True
        )
        reached = logits.argmax(1)
        going_on = reached == labels[going] if targets is None else reached != wanted
        going, gradient = going[going_on], gradient[going_on]
        if len(going) == 0:
            break
        moved = levels[going] + step_size * gradient.sign()
        levels[going] = moved.clamp(low[going], high[going])
    return levels


def _ascent(discriminator, levels, labels, targets, precision, with_logits=False):
    """The direction that misleads: up the loss of the labels, or down the loss of the targets."""
    levels = levels.detach().requires_grad_()
    logits = logits_of(discriminator, levels, precision)
    if targets is None:
        loss = F.cross_entropy(logits, labels, reduction="sum")
    else:
        loss = -F.cross_entropy(logits, targets, reduction="sum")
    gradient = input_gradient(loss, levels)
    return (gradient, logits.detach()) if with_logits else gradient


ATTACKS = ("noise", "step", "pgd", "step_targeted", "pgd_targeted")


def study(
    discriminator, images, labels, epsilons, classes, seed=0, precision="fp32", progress=None
):
    """Who withstands what: for each attack and epsilon, whether each image is still named right.

    images: uint8 (n, 3, 32, 32); labels: int64 (n,); epsilons: levels, ascending, without 0.
    Returns {attack: bool (len(epsilons), n)} and {epsilon: float32 levels (n, 3, 32, 32) of pgd}.
    For the targeted attacks, toward (label + 1) % classes, "withstands" means: not named the
    target. Every figure is that of the finished image, looked at again. PGD at a larger epsilon
    goes on only with images that withstood the smaller ones: what misled within 2 levels is within
    4.
    """
    targets = (labels + 1) % classes
    stream = runtime.random_stream(images.device, seed, _STUDY)
    withstood = {attack: [] for attack in ATTACKS}
    found = {attack: images.float() for attack in ("pgd", "pgd_targeted")}
    shown = {}

    def named(levels):
        with torch.no_grad():
            return logits_of(discriminator, levels, precision).argmax(1)

    for epsilon in epsilons:
        noisy = random_noise(images, epsilon, stream)
        withstood["noise"].append(named(noisy) == labels)
        for attack, wanted in (("step", None), ("step_targeted", targets)):
            moved = signed_step(discriminator, images, labels, epsilon, wanted, precision)
            result = named(moved)
            withstood[attack].append(result == labels if wanted is None else result != wanted)
        for attack, wanted in (("pgd", None), ("pgd_targeted", targets)):
            before = named(found[attack])
            left = (before == labels if wanted is None else before != wanted).nonzero().flatten()
            if len(left):
                levels = found[attack].clone()
                levels[left] = projected_gradient(
                    *(discriminator, images[left], labels[left], epsilon),
                    targets=None if wanted is None else wanted[left],
                    generator=stream,
                    precision=precision,
                )
                found[attack] = levels
            result = named(found[attack])
            withstood[attack].append(result == labels if wanted is None else result != wanted)
        shown[epsilon] = found["pgd"].clone()
        if progress is not None:
            progress.step()
    return {attack: torch.stack(rows) for attack, rows in withstood.items()}, shown


_STUDY = 30  # the name of the random stream


def smallest_flip(withstood, epsilons):
    """The smallest epsilon that misled each image: bool (e, n) -> float32 (n,), inf for none."""
    flipped = ~withstood
    first = flipped.int().argmax(0)
    smallest = torch.tensor(epsilons, dtype=torch.float32)[first.cpu()]
    return torch.where(flipped.any(0).cpu(), smallest, torch.inf)
