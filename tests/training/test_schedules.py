import pytest

from inside_cnn.training.schedules import drops, linear, triangular


def test_schedules():
    factors = [triangular(step, 10, 0.2) for step in range(10)]
    expected = [0.25, 0.75] + [(10 - step - 0.5) / 8 for step in range(2, 10)]
    assert factors == pytest.approx(expected)
    assert triangular(0, 4, 0.0) == pytest.approx(0.875)
    assert [drops(e, [50, 75]) for e in (0, 49, 50, 74, 75, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [linear(step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]
