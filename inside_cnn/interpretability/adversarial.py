"""Adversarial attacks: one signed step, projected gradient descent, and noise as a baseline.

Images are held in pixel levels, 0 to 255, so that an epsilon of 8/255 holds to the last bit.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from inside_cnn.core.device import Stream, random_stream
from inside_cnn.core.progress import with_progress
from inside_cnn.layers.double_backward import input_gradient

STEPS, RESTARTS, TARGETS = 50, 5, 3  # of the full attack
BUDGET = STEPS * (RESTARTS + TARGETS)  # its gradient evaluations for each image


def class_logits(network, levels):
    """Class logits, float32 (b, classes), of images in levels: (b, 3, 32, 32) in [0, 255]."""
    return network.logits(levels / 127.5 - 1)


@torch.no_grad()
def predict(network, levels):
    """class_logits without a gradient."""
    return class_logits(network, levels)


def loss_gradient(network, levels, classes, margin=False, rivals=None):
    """Gradient of the loss of `classes` in the pixels, and the class logits on the way to it.

    Up the gradient leads away from the classes, down it toward them. The loss is the cross-entropy;
    with `margin`, the rival's logit minus that of the class, whose gradient does not fade where a
    network is sure.
    levels: (b, 3, 32, 32) in [0, 255]; classes: int64 (b,); rivals: int64 (b,), by default of each
    image the class with the largest other logit. Returns float32 (b, 3, 32, 32) and float32
    (b, num_classes).
    Source of the margin: Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural
    Networks.
    """
    levels = levels.detach().requires_grad_()
    logits = class_logits(network, levels)
    if margin:
        if rivals is None:
            rivals = logits.scatter(1, classes[:, None], -torch.inf).argmax(1)
        logits_of_two = logits.gather(1, torch.stack([rivals, classes], dim=1))
        loss = (logits_of_two[:, 0] - logits_of_two[:, 1]).sum()
    else:
        loss = F.cross_entropy(logits, classes, reduction="sum")
    return input_gradient(loss, levels), logits.detach()


def limits(images, epsilon):
    """The lowest and highest level that every pixel may take: uint8 -> two float32 tensors."""
    levels = images.float()
    return (levels - epsilon).clamp_min(0), (levels + epsilon).clamp_max(255)


def random_noise(images, epsilon, generator=None):
    """Every pixel moved by epsilon, up or down at random: the baseline of the same size.

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


def still_going(predicted, classes, targeted):
    """Whether each image's attack goes on: its class is predicted, or if targeted, another."""
    return predicted != classes if targeted else predicted == classes


def projected_gradient(
    network,
    images,
    classes,
    epsilon,
    *,
    targeted=False,
    rivals=None,
    steps=STEPS,
    step_size=None,
    stop_early=True,
    generator=None,
):
    """Steps by the sign of the margin's gradient from a random start, never further than epsilon.

    The steps shrink linearly from `step_size`, by default 2 epsilon, to step_size / steps.
    An image leaves the batch once it is fooled: its class is not predicted, or if `targeted`, it
    is. With stop_early=False all images take all steps. Float32 decides that: bfloat16 gradients
    only propose images to look at, and after the last step all are looked at.
    images: uint8 (b, 3, 32, 32); classes: int64 (b,), to leave or to reach; epsilon and step_size:
    in levels; rivals: as in loss_gradient; `generator` draws the start. Returns float32 levels in
    [0, 255] and float32 (b,), the gradient evaluations until each image was fooled, or inf.
    Sources: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks; of
    the shrinking steps Croce and Hein 2020, Reliable Evaluation of Adversarial Robustness.
    """
    step_size = 2 * epsilon if step_size is None else step_size
    low, high = limits(images, epsilon)
    start = torch.rand(images.shape, generator=generator, device=images.device)
    levels = torch.lerp(low, high, start)
    evaluations = torch.full((len(images),), torch.inf, device=images.device)
    going = torch.arange(len(images), device=images.device)
    for index in range(steps):
        if len(going) == 0:
            break
        current, aim = levels[going], classes[going]
        rival = None if rivals is None else rivals[going]
        gradient, logits = loss_gradient(network, current, aim, True, rival)
        going_on = still_going(logits.argmax(1), aim, targeted)
        if network.precision != "fp32" and not going_on.all():
            again = predict(network.at("fp32"), current[~going_on]).argmax(1)
            going_on[~going_on] = still_going(again, aim[~going_on], targeted)
        evaluations[going[~going_on]] = index + 1
        if not stop_early:
            going_on = torch.ones_like(going_on)
        going = going[going_on]
        step = step_size * (1 - index / steps) * gradient[going_on].sign()
        moved = current[going_on] - step if targeted else current[going_on] + step
        levels[going] = moved.clamp(low[going], high[going])
    if len(going):
        predicted = predict(network.at("fp32"), levels[going]).argmax(1)
        fooled = ~still_going(predicted, classes[going], targeted)
        evaluations[going[fooled]] = evaluations[going[fooled]].clamp_max(steps)
    return levels, evaluations


def full_attack(network, images, labels, epsilon, generator=None):
    """Projected gradient descent up to BUDGET gradients: several restarts and several targets.

    One start up the margin to the largest other logit, one for each of the TARGETS classes that
    are most likely on the image as it is, up the margin of that class, then the other starts. An
    image leaves once it is fooled, toward whatever class.
    images: uint8 (b, 3, 32, 32); labels: int64 (b,); epsilon: in levels. Returns as
    projected_gradient; of an image that is wrong without any attack the evaluations are 0.
    """
    levels = images.float()
    logits = predict(network.at("fp32"), levels)
    evaluations = torch.where(logits.argmax(1) == labels, torch.inf, 0.0)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    targets = others.topk(min(TARGETS, logits.shape[1] - 1)).indices.unbind(1)
    for index, rivals in enumerate([None, *targets, *[None] * (RESTARTS - 1)]):
        left = evaluations.isinf().nonzero().flatten()
        if len(left) == 0:
            break
        levels[left], used = projected_gradient(
            network,
            images[left],
            labels[left],
            epsilon,
            rivals=None if rivals is None else rivals[left],
            generator=generator,
        )
        evaluations[left] = index * STEPS + used
    return levels, evaluations


def perturb(network, images, classes, epsilon, attack, targeted=False):
    """Images moved away from the classes, or, if `targeted`, toward them.

    images: uint8 (b, 3, 32, 32); classes: int64 (b,); epsilon: in levels, at 0 nothing moves;
    attack: `noise`, to which classes are nothing, `step`, or `pgd`, of 20 steps up the margin. What
    is random is the same at every call. Returns float32 levels in [0, 255].
    Raises ValueError for another attack.
    """
    stream = random_stream(images.device, 0, Stream.PERTURB)
    if attack == "noise":
        return random_noise(images, epsilon, stream)
    if attack == "step":
        gradient, _ = loss_gradient(network, images.float(), classes)
        return signed_step(images, gradient, epsilon, targeted)
    if attack == "pgd":
        options = {"targeted": targeted, "steps": 20, "generator": stream}
        return projected_gradient(network, images, classes, epsilon, **options)[0]
    raise ValueError(f"attack must be noise, step or pgd, not {attack!r}")


ATTACKS = ("noise", "step", "pgd", "step_targeted")


class Study(NamedTuple):
    """What the attacks made of n images.

    predicted: {attack: int64 (number of epsilons, n)}, the classes that the network predicts;
    levels: for each epsilon the images of `pgd`, float32 (n, 3, 32, 32); evaluations: float32 (n,),
    the gradients until the full attack fooled the network, 0 without any attack, inf never.
    """

    predicted: dict
    levels: list
    evaluations: torch.Tensor


def study(network, images, labels, epsilons, full_epsilon, *, seed=0, batch_size=250, title=""):
    """The Study of each attack at each epsilon.

    images: uint8 (n, 3, 32, 32); labels: int64 (n,); epsilons: levels, ascending, above 0;
    full_epsilon: the one of them at which `pgd` is the full attack; at the others it has one start.
    `step_targeted` aims at the class after the label. Gradients are in the network's precision;
    classes are always predicted in float32, since bfloat16 rounds the smallest perturbations away,
    on the finished images, again. At a larger epsilon PGD goes on only with the images that
    withstood the smaller ones: what fools within 2/255 does so within 4/255.
    """
    parts = []
    batches = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
    for index, batch in enumerate(batches):
        purposes = (Stream.STUDY, Stream.STUDY_NOISE)  # so that all networks see the same noise
        streams = [random_stream(images.device, seed, purpose, index) for purpose in purposes]
        of_batch = title and f"{title}, batch {index + 1} of {len(batches)}"
        parts.append(_study_batch(network, *batch, epsilons, full_epsilon, streams, of_batch))
    predicted, levels, evaluations = zip(*parts, strict=True)
    return Study(
        {attack: torch.cat([part[attack] for part in predicted], dim=1) for attack in ATTACKS},
        [torch.cat(part) for part in zip(*levels, strict=True)],
        torch.cat(evaluations),
    )


def _study_batch(network, images, labels, epsilons, full_epsilon, streams, title):
    def predict_classes(levels):
        return predict(network.at("fp32"), levels).argmax(1)

    clean = images.float()
    away, logits = loss_gradient(network, clean, labels)  # at every epsilon the same direction
    targets = (labels + 1) % logits.shape[1]
    toward, _ = loss_gradient(network, clean, targets)
    levels, latest = clean, predict_classes(clean)
    predicted = {attack: [] for attack in ATTACKS}
    pgd_levels = []
    stream, noise_stream = streams
    for epsilon in with_progress(epsilons, title, len(images)):
        moved = {
            "noise": random_noise(images, epsilon, noise_stream),
            "step": signed_step(images, away, epsilon),
            "step_targeted": signed_step(images, toward, epsilon, targeted=True),
        }
        for attack, attacked in moved.items():
            predicted[attack].append(predict_classes(attacked))
        left = latest == labels
        levels, latest = levels.clone(), latest.clone()
        if epsilon == full_epsilon:  # on all images, for the evaluations that each takes
            attacked, evaluations = full_attack(network, images, labels, epsilon, stream)
            left |= evaluations.isfinite()
            attacked = attacked[left]
        else:
            attacked, _ = projected_gradient(
                network, images[left], labels[left], epsilon, generator=stream
            )
        if left.any():
            levels[left] = attacked
            latest[left] = predict_classes(attacked)
        if epsilon == full_epsilon:  # an image that only a smaller epsilon fooled counts as fooled
            evaluations[evaluations.isinf() & (latest != labels)] = 1
        predicted["pgd"].append(latest)
        pgd_levels.append(levels)
    stacked = {attack: torch.stack(rows) for attack, rows in predicted.items()}
    return stacked, pgd_levels, evaluations


def smallest_flip(right, epsilons):
    """The smallest epsilon that fooled each image: bool (e, n) -> float32 (n,), inf for none."""
    flipped = ~right
    first = flipped.int().argmax(0)
    smallest = torch.tensor(epsilons, dtype=torch.float32)[first.cpu()]
    return torch.where(flipped.any(0).cpu(), smallest, torch.inf)
