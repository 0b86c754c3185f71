"""95 % confidence intervals of metrics measured on a sample of images."""

import itertools
import math

import torch


def percent(correct):
    """bool -> percentage of True; shares, 0 to 1 -> their mean in percent. Of any shape."""
    return round(100 * correct.double().mean().item(), 2)


def percent_interval(correct):
    """The 95 % interval of percent(correct): [low, high].

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    z = 1.96  # the 97.5 % quantile of the normal distribution
    n = len(correct)
    share, shrink = correct.sum().item() / n, 1 + z**2 / n
    center = (share + z**2 / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    ends = max(0.0, center - half), min(1.0, center + half)
    return [round(100 * end, 2) for end in ends]


def paired_bootstrap(a, b):
    """(mean of a - mean of b, low, high), the 95 % percentile interval over resampled images.

    a, b: (n,), numbers or bool; a[i] and b[i] belong to the same image.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    differences = a.double().cpu() - b.double().cpu()
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(len(differences), (2000, len(differences)), generator=generator)
    means = differences[indices].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return differences.mean().item(), low, high


def paired_differences(values_of):
    """Differences between all pairs of networks in percentage points, with bootstrap intervals.

    values_of: {network: {measure: (n,)}} on the same images -> {network: {other: {measure:
    [difference, low, high]}}}, the network minus the other. Prints those of up to three networks.
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
