"""The comparison of the plain training with the shipped one."""

import pytest

import parity


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "tpu"], "--device"),
        (["--batch_size", 16, "--limit_train", 8, "--dataset", "shapes"], "larger than the set"),
        (["--epochs", 51], "--epochs"),
    ],
)
def test_bad_input_of_parity(refused, flags, message):
    assert message in refused(parity, "gan", *flags)


def test_last_third():
    log = [dict.fromkeys(parity.METRICS, float(step)) for step in range(10)]
    assert parity.last_third(log) == dict.fromkeys(parity.METRICS, 8.0)


@pytest.mark.parametrize("what", ["classifier", "gan"])
def test_parity_prints_both_sides(run_main, what):
    flags = ["--dataset", "shapes", "--limit_train", 16, "--limit_test", 8, "--width", 2]
    flags += ["--batch_size", 8, "--epochs", 1, "--steps", 3, "--seeds", 2, "--device", "cpu"]
    code, out, _ = run_main(parity, what, *flags)
    assert code == 0
    figures = ["test_accuracy"] if what == "classifier" else parity.METRICS
    for name in figures:
        (line,) = (row for row in out.splitlines() if row.startswith(f"{name} "))
        assert line.count("+-") == 2
