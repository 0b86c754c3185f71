"""Every write of a run fails once: the run ends in its own way, and the next start mends it."""

import pytest

import train_discriminator
import train_gan
from compare import assert_same_run
from engine.cli import SAVE_FAILED
from faults import failing
from processes import EVERY_STEP, SMALL

FLAGS = [*SMALL, "--limit_train", 48, *EVERY_STEP, "--epochs", 2, "--output_dir"]  # six steps


@pytest.mark.parametrize(
    ("script", "stride"),
    [
        (train_discriminator, 25),
        pytest.param(train_discriminator, 1, marks=pytest.mark.slow),
        pytest.param(train_gan, 1, marks=pytest.mark.slow),
    ],
)
def test_a_write_that_fails(run_main, tmp_path, script, stride):
    """Code 2: it could not begin; 4: what failed last was not made good; 0: it was, by a retry."""
    whole = tmp_path / "whole"
    with failing(0, whole) as tried:
        assert run_main(script, *FLAGS, whole)[0] == 0
    assert {"open", "write", "fsync", "replace"} == set(tried)
    assert len(tried) > 90
    codes = set()
    for number in range(1, len(tried) + 1, stride):
        run = tmp_path / str(number)
        with failing(number, run):
            code, out, err = run_main(script, *FLAGS, run)
        told = (number, tried[number - 1], code, out, err)
        assert code in (0, 2, SAVE_FAILED), told
        assert "Input/output error" in out + err, told
        assert "Traceback" not in out + err, told
        codes.add(code)
        code, out, err = run_main(script, *FLAGS, run)
        assert code == 0, (told, out, err)
        assert_same_run(whole, run)
    assert stride > 1 or codes == {0, 2, SAVE_FAILED}
