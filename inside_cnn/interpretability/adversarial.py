"""Adversarial attacks: one signed step, projected gradient descent, and noise as a baseline.

Images are in pixel levels, 0 to 255, so that an epsilon of 8/255 is exact in float32.
"""

import torch
import torch.nn.functional as F

from inside_cnn.core.device import Stream, random_stream
from inside_cnn.core.progress import with_progress
from inside_cnn.interpretability.network import split
from inside_cnn.layers.double_backward import input_gradient

BATCH = 250  # images of one attack
STEPS, RESTARTS, TARGETS = 50, 5, 3  # of the full attack
BUDGET = STEPS * (RESTARTS + TARGETS)  # its gradient evaluations for each image
ATTACKS = ("noise", "step", "pgd")  # of the study


@torch.no_grad()
def predict(network, levels):
    """Class logits, float32 (n, classes), of images (n, 3, 32, 32) in [0, 255]."""
    return torch.cat([network.logits(batch / 127.5 - 1) for batch in split(levels, 500)])


def predict_classes(network, levels):
    """The classes predicted in float32, int64 (n,), of images as in predict."""
    return predict(network.at("fp32"), levels).argmax(1)


def labeled_batches(images, labels, title=""):
    """Pairs of at most BATCH images and their labels, with a progress bar if there is a title."""
    parts = split(images, BATCH)
    pairs = list(zip(parts, labels.split(len(parts[0])), strict=True))
    return with_progress(pairs, title, len(parts[0]))


def loss_gradient(network, levels, classes, margin=False, rivals=None):
    """Gradient of the loss of `classes` with respect to the pixels, and the class logits.

    The loss is the cross-entropy; with `margin`, the rival's logit minus that of the class, whose
    gradient does not vanish where the network is confident.
    levels: (b, 3, 32, 32) in [0, 255]; classes: int64 (b,); rivals: int64 (b,), by default the
    class with the largest other logit. Returns float32 (b, 3, 32, 32) and (b, num_classes).
    Source: Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural Networks.
    """
    levels = levels.detach().requires_grad_()
    logits = network.logits(levels / 127.5 - 1)
    if margin:
        if rivals is None:
            rivals = logits.scatter(1, classes[:, None], -torch.inf).argmax(1)
        loss = (logits.gather(1, rivals[:, None]) - logits.gather(1, classes[:, None])).sum()
    else:
        loss = F.cross_entropy(logits, classes, reduction="sum")
    return input_gradient(loss, levels), logits.detach()


def limits(images, epsilon):
    """The lowest and highest level that each pixel may take: uint8 -> two float32 tensors."""
    levels = images.float()
    return (levels - epsilon).clamp_min(0), (levels + epsilon).clamp_max(255)


def random_noise(images, epsilon, generator=None):
    """Every pixel changed by +epsilon or -epsilon at random: the baseline of the same size.

    images: uint8 (b, 3, 32, 32); epsilon: in levels. Returns float32 levels in [0, 255].
    """
    signs = torch.rand(images.shape, generator=generator, device=images.device) < 0.5
    low, high = limits(images, epsilon)
    return torch.where(signs, low, high)


def signed_step(images, gradient, epsilon, targeted=False):
    """One step of size epsilon along the sign of a loss's gradient; `targeted`: against it.

    images: uint8 (b, 3, 32, 32); gradient: the same shape, from loss_gradient; epsilon: in levels.
    Returns float32 levels in [0, 255].
    Source: Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples.
    """
    low, high = limits(images, epsilon)
    step = -epsilon if targeted else epsilon
    return (images.float() + step * gradient.sign()).clamp(low, high)


def projected_gradient(
    network, images, classes, epsilon, *, rivals=None, steps=STEPS, stop_early=True, generator=None
):
    """Signed steps along the margin's gradient from a random start, within epsilon of the image.

    The step size decreases linearly from 2 epsilon to 2 epsilon / steps. With stop_early an image
    leaves the batch once it is fooled: its class is not predicted. This is decided in float32;
    predictions in bfloat16 only select candidates.
    images: uint8 (b, 3, 32, 32); classes: int64 (b,), to leave; epsilon: in levels; rivals: as in
    loss_gradient. Returns float32 levels in [0, 255] and float32 (b,), the gradient evaluations
    until each image was fooled, or inf.
    Sources: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks;
    decreasing steps: Croce and Hein 2020, Reliable Evaluation of Adversarial Robustness.
    """
    low, high = limits(images, epsilon)
    start = torch.rand(images.shape, generator=generator, device=images.device)
    levels = torch.lerp(low, high, start)
    evaluations = torch.full((len(images),), torch.inf, device=images.device)
    active = torch.arange(len(images), device=images.device)

    for index in range(steps):
        if len(active) == 0:
            break
        current, rival = levels[active], None if rivals is None else rivals[active]
        gradient, logits = loss_gradient(network, current, classes[active], True, rival)
        fooled = logits.argmax(1) != classes[active]
        if network.precision != "fp32" and fooled.any():
            rows = active[fooled]
            fooled[fooled.clone()] = predict_classes(network, levels[rows]) != classes[rows]
        evaluations[active[fooled]] = index + 1
        moving = ~fooled if stop_early else torch.ones_like(fooled)
        active = active[moving]
        step = 2 * epsilon * (1 - index / steps) * gradient[moving].sign()
        levels[active] = (current[moving] + step).clamp(low[active], high[active])
    if len(active):
        fooled = active[predict_classes(network, levels[active]) != classes[active]]
        evaluations[fooled] = evaluations[fooled].clamp_max(steps)
    return levels, evaluations


def full_attack(network, images, labels, epsilon, generator=None):
    """Projected gradient descent with several restarts and targets, up to BUDGET gradients.

    The first start uses the margin to the largest other logit, the next TARGETS starts the margins
    of the most likely other classes, and the last RESTARTS - 1 are as the first.
    Arguments and values as in projected_gradient; the evaluations of an image that is misclassified
    without attack are 0.
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
        rivals = None if rivals is None else rivals[left]
        levels[left], used = projected_gradient(
            network, images[left], labels[left], epsilon, rivals=rivals, generator=generator
        )
        evaluations[left] = index * STEPS + used
    return levels, evaluations


def study(network, images, labels, epsilons, full_epsilon, shown, title=""):
    """Every attack at every epsilon.

    Gradients are in the network's precision, predictions in float32, since bfloat16 rounds small
    perturbations away. At a larger epsilon PGD continues only with the images that it did not fool
    at smaller ones.
    images: uint8 (n, 3, 32, 32); labels: int64 (n,); epsilons: e levels, ascending, above 0;
    full_epsilon: the one at which `pgd` is the full attack; at the others it has one start.
    Returns {attack: int64 (e, n)}, the predicted classes; the images of `pgd` at the s indices
    `shown`, float32 (e, s, 3, 32, 32); and float32 (n,), the evaluations of the full attack.
    """
    parts, levels_of, start = [], {}, 0
    for index, batch in enumerate(labeled_batches(images, labels)):
        options = epsilons, full_epsilon, index, title and f"{title}, batch {index + 1}"
        predicted, levels, evaluations = _study_batch(network, *batch, *options)
        parts.append((predicted, evaluations))
        for row in shown:  # the images of all attacks may not fit into memory
            if start <= row < start + len(evaluations):
                levels_of[row] = levels[:, row - start].clone()
        start += len(evaluations)
    predicted, evaluations = zip(*parts, strict=True)
    predicted = dict(zip(ATTACKS, torch.cat(predicted, dim=2), strict=True))
    return predicted, torch.stack([levels_of[row] for row in shown], 1), torch.cat(evaluations)


def _study_batch(network, images, labels, epsilons, full_epsilon, index, title):
    """Classes (attacks, e, b), levels (e, b, 3, 32, 32) and evaluations (b,) of a batch."""
    stream = random_stream(images.device, 0, Stream.STUDY, index)
    noise_stream = random_stream(images.device, 0, Stream.STUDY_NOISE, index)
    levels = images.float()
    gradient, _ = loss_gradient(network, levels, labels)  # at every epsilon the same direction
    latest = predict_classes(network, levels)
    predicted, pgd_levels = [], []
    for epsilon in with_progress(epsilons, title, len(images)):
        noise = predict_classes(network, random_noise(images, epsilon, noise_stream))
        step = predict_classes(network, signed_step(images, gradient, epsilon))
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
            latest[left] = predict_classes(network, attacked)
        if epsilon == full_epsilon:  # an image that only a smaller epsilon fooled counts as fooled
            evaluations[evaluations.isinf() & (latest != labels)] = 1
        predicted.append(torch.stack([noise, step, latest]))
        pgd_levels.append(levels)
    return torch.stack(predicted, dim=1), torch.stack(pgd_levels), evaluations
