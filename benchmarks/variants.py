"""Changes of the GAN's training that were tried and are no flags: context managers.

Each replaces functions of train_gan.py for as long as it lasts; what gains becomes a flag there.
`benchmarks/time_to_quality.py --variant NAME` tries one.
"""

import contextlib
import math
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F

import train_gan
from metrics.classifier import evaluate
from training.ema import EMA

UNTIMED_STEPS = 6  # steps that time_to_quality.py does not time


def patched(**functions):
    return mock.patch.multiple(train_gan, **functions)


def reused_fakes():
    """The fakes that the critic's step drew are those that the generator learns from."""
    draw, fake_inputs, kept = train_gan.draw, train_gan.fake_inputs, {}

    def inputs_of_both(*args, for_d=False):
        if for_d:  # the critic's step comes first
            kept["inputs"] = fake_inputs(*args, for_d=for_d)
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
            kept["average"] = EMA(discriminator, decay)
        kept["average"].update(discriminator, step.double() - 1)
        return metrics

    def evaluate_average(_, *rest):
        return evaluate(kept["average"].model, *rest)

    return patched(update_discriminator=update_discriminator, evaluate=evaluate_average)


def consistent_classes(weight=1.0):
    """The class head says the same of a real image and of its copy, shifted by up to 4 pixels."""
    plain = train_gan.discriminator_loss

    def discriminator_loss(discriminator, real, labels, *rest, **options):
        logits = []  # of every pass; the first begins with the real images
        hook = discriminator.class_head.register_forward_hook(lambda *args: logits.append(args[2]))
        loss, parts = plain(discriminator, real, labels, *rest, **options)
        hook.remove()
        down, right = torch.randint(-4, 5, (2,)).tolist()
        copies = F.pad(real, [4] * 4, mode="reflect")
        copies = copies[:, :, 4 + down : 36 + down, 4 + right : 36 + right]
        one, other = logits[0][: len(real)], discriminator(copies)[1]
        apart = one.float().softmax(1) - other.float().softmax(1)
        return loss + weight * apart.square().sum(1).mean(), parts

    return patched(discriminator_loss=discriminator_loss)


def growing_batches(scaled=False):
    """A quarter of each batch in the first third of the run, a half in the second, then all of it.

    scaled: the rates too, by the square root of the share. The step's images are fewer, and the
    epoch is as many steps.
    """
    real_batch, linear, whole = train_gan.real_batch, train_gan.linear, {}

    def share(step, total):
        progress = max(0, step - UNTIMED_STEPS) / max(1, total - UNTIMED_STEPS)
        return (1 / 4, 1 / 2, 1)[int(3 * progress)]

    def part_of_batch(run, args, train_set):
        size = whole.setdefault("size", args.batch_size)
        args.batch_size = max(2, int(size * share(run.step, run.total_steps)))
        return real_batch(run, args, train_set)

    def scaled_linear(step, total):
        return linear(step, total) * math.sqrt(share(step, total))

    return patched(real_batch=part_of_batch, linear=scaled_linear if scaled else linear)


def longer_averages(decays=(0.9995, 0.9999)):
    """Other averages of the generator beside the recipe's, in one training: none has a part in it.

    Each is scored; its figures are called "frechet_distance of 0.9995" and so on. By their warm-up
    they are that of 0.999 for the generator's first 9,000 steps.
    """
    plain = train_gan.score

    class Averages(EMA):
        def __init__(self, network, decay):
            super().__init__(network, decay)
            self.others = {other: EMA(network, other) for other in decays}

        def update(self, *args):
            super().update(*args)
            for other in self.others.values():
                other.update(*args)

    def score(run, training_scores, ema):
        of_others = {
            f"{name} of {decay}": value
            for decay, other in ema.others.items()
            for name, value in training_scores(other.model).items()
        }
        return plain(run, training_scores, ema) | of_others

    return patched(EMA=Averages, score=score)


VARIANTS = {
    "none": contextlib.nullcontext,
    "reused_fakes": reused_fakes,
    "colour": colour,
    "cutout": cutout,
    "critic_average": critic_average,
    "consistent_classes": consistent_classes,
    "growing_batches": growing_batches,
    "growing_batches_scaled": partial(growing_batches, scaled=True),
    "longer_averages": longer_averages,
}
