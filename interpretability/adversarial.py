"""Adversarial perturbations: one signed step, projected gradient descent, and noise as a control.

Images are held in pixel levels, 0 to 255, so that "at most 8 levels" is meant to the last bit.
"""

import torch
import torch.nn.functional as F

from engine.device import autocast, random_stream
from layers.double_backward import input_gradient


def logits_of(discriminator, levels, precision="fp32"):
    """Class logits, float32 (b, classes), of images in levels: (b, 3, 32, 32) in [0, 255]."""
    with autocast(levels.device, precision):
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
    margin=False,
):
    """Steps by the sign of the gradient from a random start, never further than epsilon.

    An image is left alone once it is where it should be: with `targets`, named so, without, named
    anything but its label. step_size: in levels, by default 2.5 epsilon / steps. The rest as
    signed_step; `generator` draws the start. margin: climb the difference of two logits in place of
    the cross-entropy, whose gradient fades where a network is sure.
    Sources: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks;
    Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural Networks (the margin).
    """
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    low, high = limits(images, epsilon)
    start = torch.rand(images.shape, generator=generator, device=images.device)
    levels = torch.lerp(low, high, start)
    going = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        wanted = None if targets is None else targets[going]
        gradient, logits = _ascent(
            *(discriminator, levels[going], labels[going], wanted, precision, margin), True
        )
        reached = logits.argmax(1)
        going_on = reached == labels[going] if targets is None else reached != wanted
        going, gradient = going[going_on], gradient[going_on]
        if len(going) == 0:
            break
        moved = levels[going] + step_size * gradient.sign()
        levels[going] = moved.clamp(low[going], high[going])
    return levels


def _ascent(discriminator, levels, labels, targets, precision, margin=False, with_logits=False):
    """The direction that misleads: up the loss of the labels, or down the loss of the targets."""
    levels = levels.detach().requires_grad_()
    logits = logits_of(discriminator, levels, precision)
    wanted = labels if targets is None else targets
    if margin:
        own = logits.gather(1, wanted[:, None])
        loss = (logits.scatter(1, wanted[:, None], -torch.inf).amax(1) - own[:, 0]).sum()
    else:
        loss = F.cross_entropy(logits, wanted, reduction="sum")
    gradient = input_gradient(loss if targets is None else -loss, levels)
    return (gradient, logits.detach()) if with_logits else gradient


ATTACKS = ("noise", "step", "pgd", "step_targeted", "pgd_targeted")


def study(
    discriminator,
    images,
    labels,
    epsilons,
    classes,
    seed=0,
    batch_size=250,
    precision="fp32",
    progress=None,
):
    """What each attack at each strength makes the network say.

    images: uint8 (n, 3, 32, 32); labels: int64 (n,); epsilons: levels, ascending, above 0. The
    targeted attacks aim at (label + 1) % classes. precision: of the gradients; the names are always
    given in float32, since bfloat16 rounds the smallest perturbations away.
    Returns {attack: int64 (len(epsilons), n), the classes named} and the images of `pgd`, a list of
    float32 levels (n, 3, 32, 32) for each epsilon. Every name is that of the finished image, looked
    at again. PGD climbs the margin; at a larger epsilon it goes on only with the images that
    withstood the smaller ones: what misled within 2 levels is within 4.
    """
    named = {attack: [] for attack in ATTACKS}
    found = []
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    for number, (batch, batch_labels) in enumerate(batches):
        stream = random_stream(images.device, seed, _STUDY, number)
        targets = (batch_labels + 1) % classes
        names, levels = _study_batch(
            *(discriminator, batch, batch_labels, targets, epsilons, stream, precision, progress)
        )
        for attack, rows in names.items():
            named[attack].append(rows)
        found.append(levels)
    named = {attack: torch.cat(parts, dim=1) for attack, parts in named.items()}
    return named, [torch.cat(parts) for parts in zip(*found, strict=True)]


_STUDY = 30  # the name of the random stream


def _study_batch(discriminator, images, labels, targets, epsilons, stream, precision, progress):
    @torch.no_grad()
    def name(levels):
        return logits_of(discriminator, levels).argmax(1)

    goals = {"pgd": None, "pgd_targeted": targets}
    clean = name(images.float())
    levels = {attack: images.float() for attack in goals}
    last = dict.fromkeys(goals, clean)
    named = {attack: [] for attack in ATTACKS}
    shown = []
    # A signed step's direction does not depend on its size.
    signs = {
        attack: _ascent(discriminator, images.float(), labels, wanted, precision).sign()
        for attack, wanted in (("step", None), ("step_targeted", targets))
    }
    for epsilon in epsilons:
        low, high = limits(images, epsilon)
        named["noise"].append(name(random_noise(images, epsilon, stream)))
        for attack, sign in signs.items():
            named[attack].append(name((images.float() + epsilon * sign).clamp(low, high)))
        for attack, wanted in goals.items():
            withstands = last[attack] == labels if wanted is None else last[attack] != wanted
            left = withstands.nonzero().flatten()
            if len(left):
                levels[attack] = levels[attack].clone()
                levels[attack][left] = projected_gradient(
                    *(discriminator, images[left], labels[left], epsilon),
                    targets=None if wanted is None else wanted[left],
                    generator=stream,
                    precision=precision,
                    margin=True,
                )
                last[attack] = name(levels[attack])
            named[attack].append(last[attack])
        shown.append(levels["pgd"])
        if progress is not None:
            progress.step()
    return {attack: torch.stack(rows) for attack, rows in named.items()}, shown


def smallest_flip(right, epsilons):
    """The smallest epsilon that misled each image: bool (e, n) -> float32 (n,), inf for none."""
    flipped = ~right
    first = flipped.int().argmax(0)
    smallest = torch.tensor(epsilons, dtype=torch.float32)[first.cpu()]
    return torch.where(flipped.any(0).cpu(), smallest, torch.inf)


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
