import contextlib
import hashlib
import io
import os
import pickle
import runpy
import subprocess
import time
import zipfile

import pytest
import torch

from engine.weights import CheckpointError
from training import checkpoint


def state(number):
    return {"step": number, "weights": {"a": torch.full((50,), float(number))}, "list": [1, "x"]}


def test_round_trip(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, 7, state(7))
    loaded = checkpoint.load_checkpoint(path)
    assert loaded["step"] == 7
    assert loaded["list"] == [1, "x"]
    assert torch.equal(loaded["weights"]["a"], torch.full((50,), 7.0))


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (9, 10, 11, 100):
        checkpoint.save_checkpoint(tmp_path, step, state(step))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == [
        "step_000000100.pt",
        "step_000000011.pt",
    ]
    assert checkpoint.load_latest(tmp_path)["step"] == 100
    assert not list(tmp_path.glob("*.tmp"))


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.load_latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 500, -1])
def test_truncated_newest_falls_back(tmp_path, capsys, length):
    checkpoint.save_checkpoint(tmp_path, 1, state(1))
    newest = checkpoint.save_checkpoint(tmp_path, 2, state(2))
    newest.write_bytes(newest.read_bytes()[:length])
    assert checkpoint.load_latest(tmp_path)["step"] == 1
    warning = capsys.readouterr().out
    assert warning.count("\n") == 1
    assert newest.name in warning


@pytest.mark.parametrize("place", [0, 100, 700, -40, -1])
def test_a_flipped_bit_falls_back(tmp_path, place):
    checkpoint.save_checkpoint(tmp_path, 1, state(1))
    newest = checkpoint.save_checkpoint(tmp_path, 2, state(2))
    content = bytearray(newest.read_bytes())
    content[place] ^= 4
    newest.write_bytes(content)
    assert checkpoint.load_latest(tmp_path)["step"] == 1


def test_all_damaged_is_an_error(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 1, state(1)).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="start anew"):
        checkpoint.load_latest(tmp_path)


class Gadget:
    """Unpickling this calls a function, whose effect is a file: the canary."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def gadgets(canary):
    """Each a way to run code from a pickle."""
    write = f"open({str(canary)!r}, 'w').close()"
    return {
        "open": Gadget(open, str(canary), "w"),
        "os.system": Gadget(os.system, f"touch {canary}"),
        "eval": Gadget(eval, write),
        "exec": Gadget(exec, write),
        "Popen": Gadget(subprocess.Popen, ["touch", str(canary)]),
        "runpy": Gadget(runpy.run_path, str(canary) + ".py"),
        "getattr": Gadget(getattr, Gadget(eval, write), "x"),
    }


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch, old format"])
@pytest.mark.parametrize("name", gadgets("").keys())
def test_a_pickle_from_elsewhere_does_not_run(tmp_path, writer, name):
    """Not even with a right checksum, which anybody can compute."""
    canary = tmp_path / "canary"
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w').close()")
    content = {"model": gadgets(canary)[name], "of": None}
    buffer = io.BytesIO()
    if writer == "pickle":
        pickle.dump(content, buffer)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=writer == "torch")
    payload = buffer.getvalue()
    path = tmp_path / "step_000000001.pt"
    path.write_bytes(payload + hashlib.sha256(payload).digest())
    with pytest.raises(CheckpointError):
        checkpoint.load_checkpoint(path)
    time.sleep(0.05 * (name == "Popen"))
    assert not canary.exists()


def test_the_gadgets_do_run_where_pickles_are_trusted(tmp_path):
    """The canary sings when code is executed, or the test above would show nothing."""
    for name in gadgets(""):
        canary = tmp_path / name
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'w').close()")
        with contextlib.suppress(AttributeError):  # getattr's own error, after the deed
            loaded = pickle.loads(pickle.dumps(gadgets(canary)[name]))
            if name == "Popen":
                loaded.wait()
            if name == "open":
                loaded.close()
        assert canary.exists(), name


def test_an_archive_that_is_no_checkpoint(tmp_path):
    """A zip made by hand, the least that torch would load, with a pickle that runs code."""
    canary = tmp_path / "canary"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        gadget = Gadget(os.system, f"touch {canary}")
        archive.writestr("archive/data.pkl", pickle.dumps(gadget, protocol=2))
        archive.writestr("archive/version", "3")
    path = tmp_path / "step_000000001.pt"
    payload = buffer.getvalue()
    path.write_bytes(payload + hashlib.sha256(payload).digest())
    with pytest.raises(CheckpointError):
        checkpoint.load_checkpoint(path)
    assert not canary.exists()
