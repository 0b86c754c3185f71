import hashlib
import io
import os
import pickle

import pytest
import torch

from engine.errors import UserError
from training import checkpoint


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


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    for step in (9, 10, 11, 100):
        checkpoint.save_checkpoint(tmp_path, step, state(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_000000011.pt", "step_000000100.pt"]
    assert checkpoint.load_latest(tmp_path)["step"] == 100


def truncated(content):
    return content[:-5]


def flipped(content):
    return content[:700] + bytes([content[700] ^ 4]) + content[701:]


@pytest.mark.parametrize("corrupt", [truncated, flipped, lambda _: b""])
def test_a_corrupt_newest_one_falls_back_with_one_line(tmp_path, capsys, corrupt):
    older = checkpoint.save_checkpoint(tmp_path, 1, state(1))
    newest = checkpoint.save_checkpoint(tmp_path, 2, state(2))
    newest.write_bytes(corrupt(newest.read_bytes()))
    assert checkpoint.load_latest(tmp_path)["step"] == 1
    warning = capsys.readouterr().out
    assert warning.count("\n") == 1
    assert newest.name in warning
    older.write_bytes(corrupt(older.read_bytes()))
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid"):
        checkpoint.load_latest(tmp_path)


class Gadget:
    """Unpickling this makes a folder: code from the file has run."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_in_a_checkpoint_runs(tmp_path):
    """Not even with a right checksum, which anybody can compute."""
    proof, buffer = tmp_path / "code ran", io.BytesIO()
    torch.save({"model": Gadget(proof)}, buffer)
    path, payload = tmp_path / "step_000000001.pt", buffer.getvalue()
    path.write_bytes(payload + hashlib.sha256(payload).digest())
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_checkpoint(path)
    assert not proof.exists()
    torch.load(io.BytesIO(payload), weights_only=False)
    assert proof.exists()  # it runs where pickles are trusted
