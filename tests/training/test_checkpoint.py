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
import safetensors
import torch
from safetensors.torch import load_file, save_file

from discriminator import Discriminator
from engine.files import write_atomically
from engine.weights import CheckpointError, export_model, load_model, own_or_published
from generator import Generator, sample_latents
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


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


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


@pytest.mark.parametrize("place", ["checkpoint", "checkpoint without checksum", "export"])
@pytest.mark.parametrize("writer", ["pickle", "torch", "torch, old format"])
@pytest.mark.parametrize("name", gadgets("").keys())
def test_a_pickle_from_elsewhere_does_not_run(tmp_path, place, writer, name):
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
    digest = hashlib.sha256(payload).digest() if place == "checkpoint" else b""
    path.write_bytes(payload + digest)
    with pytest.raises(CheckpointError):
        load_model(path) if place == "export" else checkpoint.load_checkpoint(path)
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
    """A zip of the right outer shape, with a path that climbs out and a pickle that runs code."""
    canary = tmp_path / "canary"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Gadget(os.system, f"touch {canary}")))
        archive.writestr("archive/version", "3")
        archive.writestr("../../canary", "climbed out")
    path = tmp_path / "a" / "b" / "step_000000001.pt"
    path.parent.mkdir(parents=True)
    payload = buffer.getvalue()
    path.write_bytes(payload + hashlib.sha256(payload).digest())
    with pytest.raises(CheckpointError):
        checkpoint.load_checkpoint(path)
    assert not list(tmp_path.rglob("canary"))


# ------------------------------------------------------------------------------ exports


def test_discriminator_round_trip(tmp_path, images):
    model = Discriminator(width=5)
    path = tmp_path / "d.safetensors"
    export_model(model, path, {"recipe": "classic", "test_accuracy": 88.25})
    loaded, metadata = load_model(path, kind="discriminator")
    assert not loaded.training
    assert metadata["recipe"] == "classic"
    assert metadata["test_accuracy"] == 88.25
    assert (metadata["kind"], metadata["width"]) == ("discriminator", 5)
    for ours, theirs in zip(loaded(images), model(images), strict=True):
        assert torch.equal(ours, theirs)


def test_generator_round_trip_keeps_batch_norm_statistics(tmp_path):
    model = Generator(width=3)
    latents = sample_latents(torch.arange(8))
    model(latents)  # moves the running statistics
    path = tmp_path / "g.safetensors"
    export_model(model, path, {})
    loaded, _ = load_model(path)
    assert torch.equal(loaded(latents), model.eval()(latents))


def test_only_our_networks_are_exported(tmp_path):
    with pytest.raises(TypeError, match="Linear"):
        export_model(torch.nn.Linear(1, 1), tmp_path / "x", {})


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "d.safetensors"
    export_model(Discriminator(width=2), path, {})
    return path


def recast(tensors, dtype):
    tensors["critic_head.bias"] = tensors["critic_head.bias"].to(dtype)


METADATA = {"kind": "discriminator", "width": "2", "num_classes": "10"}


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t.pop("critic_head.bias"), METADATA, "do not fit"),
        (lambda t: t.update(extra=torch.zeros(1)), METADATA, "do not fit"),
        (lambda t: t.update({"critic_head.bias": torch.zeros(2)}), METADATA, "do not fit"),
        (lambda t: None, METADATA | {"width": "3"}, "do not fit"),
        (lambda t: t["critic_head.bias"].fill_(float("nan")), METADATA, "NaN"),
        (lambda t: None, METADATA | {"width": "999999999"}, "impossible sizes"),
        (lambda t: None, METADATA | {"width": "__import__('os')"}, "impossible sizes"),
        (lambda t: None, METADATA | {"kind": "resnet"}, "not exported"),
        (lambda t: None, METADATA | {"kind": "[]"}, "not exported"),
        (lambda t: None, METADATA | {"kind": "[" * 10_000}, "not exported"),
        (
            lambda t: t.update({"critic_head.bias": t["critic_head.bias"].to(torch.int8)}),
            METADATA,
            "do not fit",
        ),
        (
            lambda t: t.update({"critic_head.bias": t["critic_head.bias"].to(torch.complex64)}),
            METADATA,
            "do not fit",
        ),
        (lambda t: None, None, "not exported"),
    ],
)
def test_weights_that_do_not_fit(exported, change, metadata, message):
    tensors = load_file(exported)
    change(tensors)
    save_file(tensors, exported, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_model(exported)


def test_wrong_kind_missing_and_truncated(exported, tmp_path):
    with pytest.raises(CheckpointError, match="holds a discriminator"):
        load_model(exported, kind="generator")
    with pytest.raises(CheckpointError, match="no weights"):
        load_model(tmp_path / "nowhere.safetensors")
    content = exported.read_bytes()
    for length in (0, 4, 8, 100, len(content) - 1):
        exported.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_model(exported)
    # A header that claims to be far longer than the file.
    exported.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    with pytest.raises(CheckpointError):
        load_model(exported)


def test_own_weights_come_before_the_published(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def find(given=None):
        return own_or_published(given, "gan", "generator.safetensors")

    own = Path("output/gan/generator.safetensors")
    assert find() == own  # with neither, the error names one's own
    theirs = published / "gan" / "generator.safetensors"
    theirs.parent.mkdir()
    theirs.touch()
    assert find() == theirs
    assert "taking the published" in capsys.readouterr().out
    own.parent.mkdir(parents=True)
    own.touch()
    assert find() == own
    assert find(published / "gan") == theirs
    monkeypatch.chdir(published)
    own.parent.mkdir(parents=True)
    assert find() == Path("gan/generator.safetensors")  # shown from the current folder
    assert capsys.readouterr().out.count("published") == 1


# ------------------------------------------------------------------------------ weights in 8 bits


def test_weights_in_8_bits_are_off_by_half_a_level_at_most(tmp_path):
    torch.manual_seed(0)
    model = Generator(width=12)
    with torch.no_grad():
        model.to_rgb.weight[1] = 0  # a row without a scale of its own
    path = tmp_path / "small.safetensors"
    export_model(model, path, {}, in_8_bits=True)
    export_model(model, tmp_path / "large.safetensors", {})
    assert path.stat().st_size < 0.5 * (tmp_path / "large.safetensors").stat().st_size
    found = load_model(path, kind="generator")[0].state_dict()
    for name, weight in model.state_dict().items():
        if weight.ndim < 2:
            assert torch.equal(found[name], weight), name
            continue
        assert found[name].dtype == torch.float32
        level = weight.flatten(1).abs().amax(1) / 127
        error = (found[name] - weight).flatten(1).abs().amax(1)
        assert (error <= 0.501 * level).all(), name
    assert (found["to_rgb.weight"][1] == 0).all()


@pytest.mark.parametrize("damage", ["no weight", "another length", "no scale", "NaN", "no rows"])
def test_damaged_weights_in_8_bits_are_refused(tmp_path, damage):
    path = tmp_path / "small.safetensors"
    export_model(Generator(width=4), path, {}, in_8_bits=True)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if damage == "no weight":
        tensors["nothing.scale"] = torch.ones(3)
    elif damage == "another length":
        tensors["to_rgb.weight.scale"] = torch.ones(4)
    elif damage == "no scale":
        del tensors["to_rgb.weight.scale"]
    elif damage == "no rows":
        tensors["to_rgb.bias"] = torch.zeros(3, dtype=torch.int8)
        tensors["to_rgb.bias.scale"] = torch.ones(3)
    else:
        tensors["to_rgb.weight.scale"][0] = float("nan")
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"small\.safetensors"):
        load_model(path)
