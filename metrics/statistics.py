"""Intervals of measured shares."""

import math


def wilson_interval(successes, n, z=1.96):
    """(low, high), shares in 0 to 1: the Wilson score interval of `successes` out of `n`.

    z: standard normal quantile, 1.96 for 95 %. Source: Wilson 1927.
    """
    share = successes / n
    center = share + z**2 / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (center - margin) / (1 + z**2 / n), (center + margin) / (1 + z**2 / n)
