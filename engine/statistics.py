"""Intervals of 95 % for what is measured on a sample of images."""

import math

import torch


def wilson_interval(successes, n, z=1.96):
    """The interval of a share, counted as `successes` of n images: (low, high) in [0, 1].

    z: quantile of the normal distribution, 1.96 for 95 %.
    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    share, shrink = successes / n, 1 + z**2 / n
    center = (share + z**2 / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def paired_bootstrap(a, b, resamples=2000, seed=0):
    """(mean of a - mean of b, low, high), the 95 % percentile interval over resampled images.

    a, b: (n,), numbers or bool, of which a[i] and b[i] are of the same image; images are drawn
    with both values, so what is difficult for both is no difference. Takes 16 n resamples bytes.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    differences = a.double().cpu() - b.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(differences), (resamples, len(differences)), generator=generator)
    means = differences[chosen].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return differences.mean().item(), low, high
