import hashlib
import io
import os
import pickle

import pytest
import torch

from inside_cnn.core.errors import UserError
from inside_cnn.training import checkpoint


def state(number):
    return {"step": number, "weights": {"a": torch.full((50,), float(number))}, "list": [1, "x"]}


def test_round_trip(tmp_path):
    maps = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    path = checkpoint.save_checkpoint(tmp_path, 7, state(7) | {"maps": maps})
    loaded = checkpoint.load_checkpoint(path)
    assert loaded["step"] == 7
    assert loaded["list"] == [1, "x"]
    assert torch.equal(loaded["weights"]["a"], torch.full((50,), 7.0))
    assert torch.equal(loaded["maps"], maps)
    assert loaded["maps"].is_contiguous(memory_format=torch.channels_last)


def test_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    for step in (9, 10, 11, 100):
        checkpoint.save_checkpoint(tmp_path, step, state(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_000000011.pt", "step_000000100.pt"]
    assert checkpoint.load_latest(tmp_path)["step"] == 100


@pytest.mark.parametrize("part", [slice(-5), slice(1, None), slice(0)])
def test_a_corrupt_checkpoint_is_skipped_with_a_warning(tmp_path, capsys, part):
    older = checkpoint.save_checkpoint(tmp_path, 1, state(1))
    newest = checkpoint.save_checkpoint(tmp_path, 2, state(2))
    newest.write_bytes(newest.read_bytes()[part])
    assert checkpoint.load_latest(tmp_path)["step"] == 1
    warning = capsys.readouterr().out
    assert warning.count("\n") == 1
    assert newest.name in warning
    older.write_bytes(older.read_bytes()[part])
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid"):
        checkpoint.load_latest(tmp_path)


class Gadget:
    """Unpickling this creates a folder: code from the file has run."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_in_a_checkpoint_runs(tmp_path):
    """Not even with a valid checksum."""
    proof, buffer = tmp_path / "code ran", io.BytesIO()
    torch.save({"model": Gadget(proof)}, buffer)
    path, payload = tmp_path / "step_000000001.pt", buffer.getvalue()
    path.write_bytes(payload + hashlib.sha256(payload).digest())
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_checkpoint(path)
    assert not proof.exists()
    torch.load(io.BytesIO(payload), weights_only=False)
    assert proof.exists()  # it runs where pickles are trusted
