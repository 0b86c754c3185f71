"""Changes of train_gan.py's training that were tried and are no flags: context managers.

`benchmarks/time_to_quality.py --variant NAME` trains inside one. Each replaces functions of the
module for that long; what gains becomes a flag of the script.
"""

import contextlib
import copy
from unittest import mock

import torch
import torch.nn.functional as F

import train_gan
from metrics.classifier import evaluate
from training.ema import EMA


def patched(**functions):
    return mock.patch.multiple(train_gan, **functions)


def half_penalty():
    """The penalty on every second image of the batch."""
    of_all = train_gan.input_gradient_norms

    def of_half(discriminator, real, fake, alpha):
        return of_all(discriminator, real[::2], fake[::2], alpha[::2])

    return patched(input_gradient_norms=of_half)


def reused_fakes():
    """The fakes that the critic's step drew are those that the generator learns from."""
    draw, fake_inputs, kept = train_gan.draw, train_gan.fake_inputs, {}

    def inputs_of_both(*args, with_alpha=None):
        if with_alpha is not None:  # of the critic's step, which comes first
            kept["inputs"] = fake_inputs(*args, with_alpha=with_alpha)
        return kept["inputs"]

    def draw_once(*args):
        if torch.is_grad_enabled():  # the generator's step
            return kept["fake"]
        with torch.enable_grad():
            kept["fake"] = draw(*args)
        return kept["fake"].detach()

    return patched(fake_inputs=inputs_of_both, draw=draw_once)


def _on_both(change):
    """A change of images (b, 3, 32, 32) in [-1, 1], on what the critic sees of either kind."""
    draw, real_batch = train_gan.draw, train_gan.real_batch

    def changed_real(*args):
        images, labels = real_batch(*args)
        return change(images), labels

    return patched(
        draw=lambda *args: change(draw(*args)),
        real_batch=changed_real,
    )


def colour():
    """Brightness, saturation and contrast of each image, as in DiffAugment (Zhao et al. 2020)."""

    def change(x):
        brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
        x = x + (brightness - 0.5)
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (2 * saturation)
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + (x - mean) * (contrast + 0.5)

    return _on_both(change)


def cutout(side=16):
    """A grey square of half the image's side somewhere in each, as in DiffAugment."""

    def change(x):
        centre = torch.randint(0, x.shape[-1] + 1, (2, len(x), 1), device=x.device)
        places = torch.arange(x.shape[-1], device=x.device)
        inside = ((places - centre) >= -(side // 2)) & ((places - centre) < side // 2)
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return x.masked_fill(hole, 0.0)

    return _on_both(change)


def critic_average(decay=0.999):
    """The moving average of the critic is what is tested (and would be exported)."""
    plain, kept = train_gan.update_discriminator, {}

    def update_discriminator(run, args, discriminator, generator, d_optimizer, step, *rest):
        metrics = plain(run, args, discriminator, generator, d_optimizer, step, *rest)
        if not kept:
            kept["average"] = EMA(copy.deepcopy(discriminator), decay)
        kept["average"].update(discriminator, step.double() - 1)
        return metrics

    def evaluate_average(_, *rest):
        return evaluate(kept["average"].model, *rest)

    return patched(update_discriminator=update_discriminator, evaluate=evaluate_average)


def consistent_classes(weight=1.0):
    """The class head says the same of a real image and of its copy, shifted by up to 4 pixels."""
    plain = train_gan.discriminator_loss

    def discriminator_loss(discriminator, real, labels, *rest, **options):
        loss, parts = plain(discriminator, real, labels, *rest, **options)
        down, right = torch.randint(-4, 5, (2,)).tolist()
        copies = F.pad(real, [4] * 4, mode="reflect")
        copies = copies[:, :, 4 + down : 36 + down, 4 + right : 36 + right]
        logits = discriminator(torch.cat([real, copies]))[1].float()
        one, other = logits.softmax(1).chunk(2)
        return loss + weight * (one - other).square().sum(1).mean(), parts

    return patched(discriminator_loss=discriminator_loss)


VARIANTS = {
    "none": contextlib.nullcontext,
    "half_penalty": half_penalty,
    "reused_fakes": reused_fakes,
    "colour": colour,
    "cutout": cutout,
    "critic_average": critic_average,
    "consistent_classes": consistent_classes,
}
