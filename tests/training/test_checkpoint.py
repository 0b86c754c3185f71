import contextlib
import hashlib
import io
import os
import pickle
import runpy
import subprocess
import time
import zipfile
from pathlib import Path

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


def test_one_that_cannot_be_read_is_no_damaged_one(tmp_path, monkeypatch):
    """The one before is not taken for it: the error may pass."""
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, step, state(step))
    read = Path.read_bytes

    def stale(path):
        if path.name == "step_000000002.pt":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    with pytest.raises(CheckpointError, match="Permission denied"):
        checkpoint.load_latest(tmp_path)


def write_with_checksum(path, content):
    """As anybody could: torch's file, then its SHA-256."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    return path


def test_tensors_get_memory_of_their_own(tmp_path):
    """Fused Adam writes to as many places as a moment has elements, whatever lies there."""
    one = torch.ones(1)
    path = write_with_checksum(
        tmp_path / "a", {"moment": one.expand(4), "channels_last": one.expand(2, 3, 4, 5)[:, :1]}
    )
    loaded = checkpoint.load_checkpoint(path)
    for tensor in loaded.values():
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()
    assert torch.equal(loaded["moment"], torch.ones(4))
    maps = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    loaded = checkpoint.load_checkpoint(write_with_checksum(tmp_path / "b", [maps]))
    assert loaded[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(loaded[0], maps)


def in_itself(container, put):
    put(container)
    return container


def doubled(levels):
    part = []
    for _ in range(levels):
        part = [part, part]
    return part


CRAFTED = {
    "one number in 10^12 places": torch.ones(1).expand(10**6, 10**6),
    "one tensor a thousand times": [torch.ones(1000)] * 1000,
    "sparse": torch.eye(3).to_sparse(),
    "without memory": torch.empty(3, device="meta"),
    "a dict in itself": in_itself({}, lambda d: d.update(again=d)),
    "a list in itself": in_itself([], lambda x: x.append(x)),
    "a list doubled 60 times": doubled(60),
    "a type": torch.float32,
    "a tensor as a key": {torch.ones(1): 1},
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_state_is_refused(tmp_path, kind):
    """In one line, and without the memory or the time that it asks for."""
    path = write_with_checksum(tmp_path / "step_000000001.pt", {"parts": CRAFTED[kind]})
    with pytest.raises(CheckpointError, match="does not hold a checkpoint") as caught:
        checkpoint.load_latest(tmp_path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_that_grows_is_refused_before_it_is_unpacked(tmp_path):
    """A state whose zeros are compressed: 64 MB in some kB."""
    stored, squeezed = io.BytesIO(), io.BytesIO()
    torch.save({"zeros": torch.zeros(2**24)}, stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    payload = squeezed.getvalue()
    path = tmp_path / "step_000000001.pt"
    path.write_bytes(payload + hashlib.sha256(payload).digest())
    assert path.stat().st_size < 1e6
    with pytest.raises(CheckpointError, match="parts are larger than the file"):
        checkpoint.load_checkpoint(path)


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
