"""Every write of a run fails once. The same command completes the run."""

import pytest

import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from faults import failing, no_room_for
from inside_cnn.engine.cli import SAVE_FAILED
from inside_cnn.engine.weights import load_model
from inside_cnn.training import panels
from inside_cnn.training.run import TrainingRun
from processes import EVERY_STEP, SMALL

FLAGS = [*SMALL, "--limit_train", 48, *EVERY_STEP, "--epochs", 2, "--output_dir"]  # six steps


@pytest.mark.parametrize(
    ("script", "stride"),
    [
        (train_discriminator, 13),
        pytest.param(train_discriminator, 1, marks=pytest.mark.slow),
        pytest.param(train_gan, 1, marks=pytest.mark.slow),
    ],
)
def test_a_failed_write(run_main, tmp_path, script, stride):
    """Exit code 2: the run could not begin; 4: a file is missing at the end; 0: after a retry."""
    whole = tmp_path / "whole"
    with failing(0) as attempts:
        assert run_main(script, *FLAGS, whole)[0] == 0
    assert len(attempts) > 40
    codes = set()
    for number in range(1, len(attempts) + 1, stride):
        run = tmp_path / str(number)
        with failing(number):
            code, out, err = run_main(script, *FLAGS, run)
        context = (number, attempts[number - 1], code, out, err)
        assert code in (0, 2, SAVE_FAILED), context
        codes.add(code)
        for _ in range(code != 0):
            assert "Input/output error" in out + err, context
            assert run_main(script, *FLAGS, run)[0] == 0, context
        assert_same_run(whole, run, all_files=code != SAVE_FAILED)
    assert stride > 1 or codes == {0, 2, SAVE_FAILED}


def test_best_weights_that_were_not_written_are_not_the_best(tmp_path):
    """A later generator is compared with the best one on the disk."""
    args = train_discriminator.parse_args([str(flag) for flag in (*FLAGS, tmp_path)])
    with TrainingRun(args, "train_discriminator.py", panels.CLASSIFIER) as run:
        run.load_data()
        best = tmp_path / "generator_best.safetensors"
        with no_room_for(best.name):
            run.keep_best(best.name, "score", 2, Discriminator(4), {})
        assert not best.exists()
        assert run.folder.failed.keys() == {best.name}
        run.keep_best(best.name, "score", 1, Discriminator(4), {})
        assert load_model(best)[1]["step"] == 0
        assert not run.folder.failed
