"""Samples of a trained generator, each a function of the seed and its index only."""

import torch
import torch.nn.functional as F

from data_tools import to_uint8
from generator import sample_latents
from inside_cnn.core.device import Stream, autocast, random_stream
from inside_cnn.core.progress import with_progress

BLOCK = 1000  # latents that are sampled together
BATCH = 500  # images that are generated together


def sample_labels(count, classes=range(10)):
    """The classes in turn: int64 (count,)."""
    classes = torch.as_tensor(list(classes))
    return classes[torch.arange(count) % len(classes)]


def labels_like(dataset, count):
    """int64 (count,), whose classes have the shares of the dataset: in turn if all are equal."""
    sizes = dataset.labels.bincount(minlength=len(dataset.class_names)).cpu()
    if sizes.max() == sizes.min():
        return sample_labels(count, range(len(sizes)))
    return dataset.labels.cpu()[torch.arange(count) % len(dataset)]


def latents_of(labels, latent_dim, seed, purpose=Stream.LATENTS, num_classes=10, truncation=None):
    """The latents of samples with labels int64 (n,), float32 (n, latent_dim) on the CPU.

    The noise of sample i depends neither on n nor on the labels. truncation: limit of `truncated`.
    """
    blocks = []
    for block_index, block in enumerate(labels.split(BLOCK)):
        stream = random_stream("cpu", seed, purpose, block_index)
        padded = F.pad(block, (0, BLOCK - len(block)))
        blocks.append(sample_latents(padded, latent_dim, stream, num_classes)[: len(block)])
    latents = torch.cat(blocks)
    return latents if truncation is None else truncated(latents, truncation, num_classes)


def truncated(latents, limit, num_classes):
    """Latents whose noise is mapped to a normal distribution truncated to [-limit, limit].

    The mapping is monotonic, and the class code stays. limit: above 0.
    Source: the truncation trick of Brock et al. 2019, Large Scale GAN Training for High Fidelity
    Natural Image Synthesis, which resamples values outside the limits instead.
    """
    code, noise = latents[:, :num_classes], latents[:, num_classes:]
    low, high = torch.special.ndtr(torch.tensor([-limit, limit], dtype=torch.float64))
    rank = torch.special.ndtr(noise.double())
    noise = torch.special.ndtri(low + (high - low) * rank).to(noise.dtype)
    return torch.cat([code, noise], 1)


@torch.no_grad()
def generate(generator, latents, precision="fp32", title=""):
    """latents (n, latent_dim) -> uint8 (n, 3, 32, 32) on the CPU; the generator in eval mode.

    On the CPU in float32 an image does not depend on the others, to the bit. A title adds a
    progress bar.
    """
    device = next(generator.parameters()).device
    training = generator.training
    generator.eval()
    images = []
    for batch in with_progress(latents.split(BATCH), title, BATCH):
        # A batch of one would use other kernels, with other rounding.
        padded = batch if len(batch) > 1 else batch.repeat(2, 1)
        with autocast(device, precision):
            generated = generator(padded.to(device))[: len(batch)]
        images.append(to_uint8(generated).cpu())
    generator.train(training)
    return torch.cat(images)
