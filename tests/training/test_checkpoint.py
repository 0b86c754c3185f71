import pickle

import pytest

from inside_cnn.core.errors import UserError
from inside_cnn.training import checkpoint


def test_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    for step in (9, 10, 11, 100):
        checkpoint.save_checkpoint(tmp_path, step, {"step": step})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_000000011.pt", "step_000000100.pt"]
    assert checkpoint.load_latest(tmp_path)["step"] == 100


@pytest.mark.parametrize("part", [slice(-5), slice(1, None), slice(0)])
def test_a_corrupt_checkpoint_is_skipped_with_a_warning(tmp_path, capsys, part):
    older = checkpoint.save_checkpoint(tmp_path, 1, {"step": 1})
    newest = checkpoint.save_checkpoint(tmp_path, 2, {"step": 2})
    newest.write_bytes(newest.read_bytes()[part])
    assert checkpoint.load_latest(tmp_path)["step"] == 1
    warning = capsys.readouterr().out
    assert warning.count("\n") == 1
    assert newest.name in warning
    older.write_bytes(older.read_bytes()[part])
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid"):
        checkpoint.load_latest(tmp_path)


class Gadget:
    def __reduce__(self):
        return exec, ("raise AssertionError('the file ran code')",)


def test_no_code_in_a_checkpoint_runs(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, 1, {"model": Gadget()})
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_checkpoint(path)
