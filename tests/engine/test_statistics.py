import pytest
import torch

from inside_cnn.engine.statistics import (
    paired_bootstrap,
    paired_differences,
    percent,
    percent_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
        (29, 29, 88.30, 100),
    ],
)
def test_wilson_interval_of_published_examples(successes, n, low, high):
    """The first four: Newcombe 1998, Two-sided Confidence Intervals for the Single Proportion."""
    correct = torch.arange(n) < successes
    assert percent_interval(correct) == pytest.approx([low, high], abs=1e-9)


def test_bootstrap_pairs_the_images():
    """a alone is correct on 200 of 1000 images, b alone on 100: the normal interval by hand."""
    a = torch.arange(1000) < 700
    b = (torch.arange(1000) >= 200) & (torch.arange(1000) < 800)
    difference, low, high = paired_bootstrap(a, b)
    assert difference == pytest.approx(0.1)
    half = 1.96 * ((0.3 - 0.1**2) / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.004)
    assert paired_bootstrap(b, a) == pytest.approx((-difference, -high, -low))
    assert paired_bootstrap(a, b) == (difference, low, high)


def test_differences_between_all_pairs_of_networks(capsys):
    correct = {
        "one": torch.arange(10) < 9,
        "two": torch.arange(10) < 5,
        "three": torch.ones(10) > 0,
    }
    differences = paired_differences({name: {"noise": of} for name, of in correct.items()})
    difference, low, high = differences["one"]["two"]["noise"]
    assert difference == 40
    assert low < 40 < high
    assert differences["two"]["one"]["noise"] == [-40, -high, -low]
    assert differences.keys() == {"one", "two", "three"}
    assert f"one - two, noise: +40.0 points ({low:+.1f} to {high:+.1f})" in capsys.readouterr().out
    assert percent(correct["one"]) == 90
    assert percent_interval(correct["three"]) == [72.25, 100]
