import pytest

from inside_cnn.explorer.controls import slider, whole_number


@pytest.mark.parametrize(
    ("sent", "read"),
    [(3, 3), (2.6, 3), (2.4, 2), (None, 4), (-7, 1), (99, 8), (8.0, 8)],
)
def test_a_slider_reads_a_step_of_its_own(sent, read):
    value = slider(1, 8, 4, 1, "layer").preprocess(sent)
    assert value == read
    assert isinstance(value, int)


def test_a_slider_of_parts():
    part = slider(0, 1, 0, 0.01, "way")
    assert part.preprocess(0.333) == pytest.approx(0.33)
    assert part.preprocess(None) == 0
    assert part.preprocess(1) == 1


@pytest.mark.parametrize(("sent", "read"), [(5, 5), (None, 7), (-1, 0), (1e20, 100), (2.5, 2)])
def test_a_whole_number(sent, read):
    assert whole_number(7, 100, "seed").preprocess(sent) == read
