"""Every write of a run fails once: the run ends in its own way, and the next start mends it."""

import pytest
import torch

import train_discriminator
import train_gan
from compare import assert_same_export, assert_same_run
from discriminator import Discriminator
from engine.cli import SAVE_FAILED
from engine.weights import export_model
from faults import failing, no_room_for
from processes import EVERY_STEP, SMALL
from training import checkpoint

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


def test_best_weights_that_could_not_be_written_are_written_later(run_main, tmp_path):
    """By the same run at its next save, or by the next start: they are in the checkpoint."""
    export_model(Discriminator(4), tmp_path / "judge.safetensors", {"dataset": "shapes"})
    scores = ["--evaluate_every", 1, "--judge", tmp_path / "judge.safetensors"]
    assert run_main(train_gan, *scores, *FLAGS, tmp_path / "whole")[0] == 0
    with no_room_for("generator_best.safetensors"):
        code, out, _ = run_main(train_gan, *scores, *FLAGS, tmp_path / "run")
    assert code == SAVE_FAILED
    assert "could not write generator_best.safetensors" in out
    assert not (tmp_path / "run" / "generator_best.safetensors").exists()
    assert run_main(train_gan, *scores, *FLAGS, tmp_path / "run")[0] == 0
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert_same_export(path, tmp_path / "run" / path.name)


@pytest.mark.parametrize("name", ["../outside.png", "/tmp/outside.png", "config.json", ".lock"])
def test_a_checkpoint_writes_no_file_elsewhere(run_main, tmp_path, name):
    """Where a crafted one says that such a file is still to be written."""
    run = tmp_path / "run"
    assert run_main(train_discriminator, *FLAGS, run, "--max_minutes", 0)[0] == 0
    newest = checkpoint.list_checkpoints(run / "checkpoints")[0]
    state = checkpoint.load_checkpoint(newest)
    state["unwritten"] = {name: torch.zeros(3, dtype=torch.uint8)}
    checkpoint.save_checkpoint(run / "checkpoints", state["step"], state)
    code, _, err = run_main(train_discriminator, *FLAGS, run)
    assert (code, err.count("\n")) == (2, 1)
    assert "is no file of a run" in err
    assert not (tmp_path / "outside.png").exists()
