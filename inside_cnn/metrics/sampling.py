"""Images out of a trained generator, each a function of the seed and of its index alone."""

import math

import torch
import torch.nn.functional as F

from data_tools import shown_classes, to_uint8, words_of_shown
from generator import sample_latents
from inside_cnn.core.device import Stream, autocast, random_stream
from inside_cnn.core.progress import with_progress
from inside_cnn.engine.plots import save_image_grid, shortened

BLOCK = 1000  # samples whose latents are drawn together


def sample_labels(count, classes=range(10)):
    """The classes in turn: int64 (count,)."""
    classes = torch.as_tensor(list(classes))
    return classes.repeat(math.ceil(count / len(classes)))[:count]


def latents_of(labels, latent_dim, seed, purpose=Stream.LATENTS, num_classes=10, truncation=None):
    """The latent of each sample, int64 (n,) -> (n, latent_dim) on the CPU.

    Sample i has the same noise whatever n, and whatever the classes of the others. truncation: as
    `truncated` takes it.
    """
    blocks = []
    for block_index, block in enumerate(labels.split(BLOCK)):
        stream = random_stream("cpu", seed, purpose, block_index)
        whole = torch.cat([block, block.new_zeros(BLOCK - len(block))])
        blocks.append(sample_latents(whole, latent_dim, stream, num_classes)[: len(block)])
    return truncated(torch.cat(blocks), truncation, num_classes)


def truncated(latents, limit, num_classes=10):
    """Latents whose normal noise is squeezed to a normal distribution cut at -limit and limit.

    Every value keeps its rank: less variety, and each sample still known by its noise; the code of
    the class stays. limit: above 0; None leaves all as it is. Source: the truncation trick of Brock
    et al. 2019, Large Scale GAN Training for High Fidelity Natural Image Synthesis, which draws
    anew what lies outside.
    """
    if limit is None:
        return latents
    code, noise = latents[:, :num_classes], latents[:, num_classes:]
    low, high = torch.special.ndtr(torch.tensor([-limit, limit], dtype=torch.float64))
    rank = torch.special.ndtr(noise.double())
    noise = torch.special.ndtri(low + (high - low) * rank).to(noise.dtype)
    return torch.cat([code, noise], 1)


def latent_of(label, number, latent_dim, seed, num_classes=10):
    """The latent (1, latent_dim) of image `number` of a class.

    It is that of sample `number * num_classes + label` where the classes come in turn.
    """
    block, row = divmod(number * num_classes + label, BLOCK)
    stream = random_stream("cpu", seed, Stream.LATENTS, block)
    labels = torch.full((BLOCK,), label)
    return sample_latents(labels, latent_dim, stream, num_classes)[row : row + 1]


@torch.no_grad()
def draw(generator, latents, batch_size=500, precision="fp32", title=""):
    """latents (n, latent_dim) -> uint8 (n, 3, 32, 32) on the CPU; the generator in eval mode.

    On the CPU in float32 the images are the same, to the last bit, for any batch_size. With a title
    there is a progress bar.
    """
    device = next(generator.parameters()).device
    training = generator.training
    generator.eval()
    images = []
    for batch in with_progress(latents.split(batch_size), title, batch_size):
        # One latent alone would go through other kernels, which round otherwise.
        padded = batch if len(batch) > 1 else batch.repeat(2, 1)
        with autocast(device, precision):
            drawn = generator(padded.to(device))[: len(batch)]
        images.append(to_uint8(drawn).cpu())
    generator.train(training)
    return torch.cat(images)


def walks(latent_dim, seed, classes=range(10), columns=10, num_classes=10, truncation=None):
    """Latents of two kinds of walks, each (rows * columns, latent_dim), a row for each of classes.

    Within a class: the row leads from one latent of the class to another. Between classes: the row
    holds one noise, and its code moves from its class to the next. truncation: of the ends.
    """
    stream = random_stream("cpu", seed, Stream.WALKS)
    classes = torch.as_tensor(list(classes))
    start, end = (
        truncated(sample_latents(classes, latent_dim, stream, num_classes), truncation, num_classes)
        for _ in range(2)
    )
    renamed = start.clone()
    renamed[:, :num_classes] = F.one_hot((classes + 1) % num_classes, num_classes)
    steps = torch.linspace(0, 1, columns)
    return tuple(
        torch.stack([between(start, goal, t, num_classes) for t in steps], 1).flatten(0, 1)
        for goal in (end, renamed)
    )


def between(start, end, t, num_classes=10):
    """Latents at t in [0, 1] of the way: the noise along the arc, the code of the class in a line.

    start, end: (n, latent_dim).
    """
    code = torch.lerp(start[:, :num_classes], end[:, :num_classes], t)
    return torch.cat([code, slerp(start[:, num_classes:], end[:, num_classes:], t)], 1)


def slerp(a, b, t):
    """Points at t in [0, 1] on the arcs from a to b, (n, d): the length stays about the same."""
    angle = F.cosine_similarity(a, b, dim=1).clamp(-1, 1).acos()[:, None]
    weights = torch.sin((1 - t) * angle), torch.sin(t * angle)
    arc = (weights[0] * a + weights[1] * b) / torch.sin(angle).clamp_min(1e-6)
    return torch.where(angle < 1e-3, torch.lerp(a, b, t), arc)  # nearly parallel: a line will do


def save_walks(generator, seed, precision, class_names, folder, truncation=None):
    """Draw both kinds of `walks`: walk_within_classes.png and walk_between_classes.png.

    class_names: of all classes that the generator knows, of which the shown_classes get a row.
    """
    count = len(class_names)
    shown, some = shown_classes(count), words_of_shown(count)
    pictures = {
        "walk_within_classes.png": ("from one latent of a class to another", ""),
        "walk_between_classes.png": ("one noise in each row, from its class to the next one", " →"),
    }
    of_both = walks(generator.latent_dim, seed, shown, num_classes=count, truncation=truncation)
    for latents, (file, (title, arrow)) in zip(of_both, pictures.items(), strict=True):
        captions = [""] * len(latents)
        captions[::10] = [shortened(class_names[k]) + arrow for k in shown]
        images = draw(generator, latents, precision=precision)
        save_image_grid(images, folder / file, title=title + some, captions=captions)
