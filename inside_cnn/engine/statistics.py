"""Intervals of 95 % for what is measured on a sample of images."""

import itertools
import math

import torch


def percent(right):
    """Share of True: bool (n,) -> percentage."""
    return round(100 * right.double().mean().item(), 2)


def percent_interval(right):
    """The 95 % Wilson interval of percent(right): [low, high]."""
    return [round(100 * end, 2) for end in wilson_interval(right.sum().item(), len(right))]


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


def paired_differences(values_of):
    """Differences of every two networks, in percentage points, with 95 % bootstrap intervals.

    values_of: {network: {measure: (n,)}}, of the same images. Returns {network: {other: {measure:
    [difference, low, high]}}}, the network minus the other, in both directions. Prints them if
    there are at most three networks.
    """
    differences = {name: {} for name in values_of}
    for one, other in itertools.combinations(values_of, 2):
        for measure, values in values_of[one].items():
            points = paired_bootstrap(values, values_of[other][measure])
            difference, low, high = (round(100 * point, 2) for point in points)
            differences[one].setdefault(other, {})[measure] = [difference, low, high]
            differences[other].setdefault(one, {})[measure] = [-difference, -high, -low]
            if len(values_of) <= 3:
                interval = f"{low:+.1f} to {high:+.1f}"
                print(f"  {one} - {other}, {measure}: {difference:+.1f} points ({interval})")
    return differences
