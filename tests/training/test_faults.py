"""Every write of a run fails once: it ends with its code, and the same command completes it."""

import pytest

import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from faults import failing, no_room_for
from inside_cnn.engine.cli import SAVE_FAILED
from inside_cnn.engine.weights import export_model, load_model
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
def test_a_write_that_fails(run_main, tmp_path, script, stride):
    """Code 2: it could not begin; 4: something is missing at the end; 0: a retry succeeded."""
    whole = tmp_path / "whole"
    with failing(0) as tried:
        assert run_main(script, *FLAGS, whole)[0] == 0
    assert len(tried) > 40
    codes = set()
    for number in range(1, len(tried) + 1, stride):
        run = tmp_path / str(number)
        with failing(number):
            code, out, err = run_main(script, *FLAGS, run)
        context = (number, tried[number - 1], code, out, err)
        assert code in (0, 2, SAVE_FAILED), context
        codes.add(code)
        for _ in range(code != 0):
            assert "Input/output error" in out + err, context
            assert run_main(script, *FLAGS, run)[0] == 0, context
        assert_same_run(whole, run, all_files=code != SAVE_FAILED)
    assert stride > 1 or codes == {0, 2, SAVE_FAILED}


def test_best_weights_that_could_not_be_written_are_missing_at_the_end(run_main, tmp_path):
    export_model(Discriminator(4), tmp_path / "judge.safetensors", {"dataset": "shapes"})
    scores = ["--evaluate_every", 1, "--judge", tmp_path / "judge.safetensors"]
    with no_room_for("generator_best.safetensors"):
        code, out, err = run_main(train_gan, *scores, *FLAGS, tmp_path / "run")
    assert code == SAVE_FAILED
    for written in (out, err):
        assert "could not write generator_best.safetensors" in written
    assert (tmp_path / "run" / "generator.safetensors").exists()


def test_best_weights_that_could_not_be_written_are_not_the_best(run_main, tmp_path):
    """A later generator is compared with the best one on the disk."""
    run = tmp_path / "run"
    assert run_main(train_discriminator, *FLAGS, run, "--max_steps", 1)[0] == 0
    args = train_discriminator.parse_args([str(f) for f in (*FLAGS, run, "--max_steps", 2)])
    with TrainingRun(args, "train_discriminator.py", panels.CLASSIFIER) as resumed:
        resumed.load_data()
        resumed.folder.checkpoints.mkdir(exist_ok=True)
        network = Discriminator(4)
        with no_room_for("generator_best.safetensors"):
            resumed.keep_best("generator_best.safetensors", "score", 2, network, {})
        assert not (run / "generator_best.safetensors").exists()
        resumed.keep_best("generator_best.safetensors", "score", 1, network, {})
        assert load_model(run / "generator_best.safetensors")
