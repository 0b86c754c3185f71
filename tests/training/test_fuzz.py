"""Good files of a run, altered at random: each is taken, or refused in one line."""

import copy
import hashlib
import io
import json
import random
import shutil
import struct

import pytest
import torch

import train_discriminator
from engine.output_folder import RunError
from engine.weights import CheckpointError, load_model
from processes import SMALL
from training import panels
from training.run import TrainingRun
from training.run_folder import RunFolder

ODD = (None, True, 0, -1, 5, 10**400, 1e308, float("nan"), "", "x", "\ud800", "$x^$", [], {}, [[]])
TENSORS = (
    torch.zeros(()),
    torch.full((3,), float("inf")),
    torch.ones(1).expand(1000, 1000),
    torch.zeros(2, 2, dtype=torch.int8),
    torch.zeros(0),
    torch.eye(2).to_sparse(),
)


def altered_bytes(content, rng):
    """Some bytes changed, cut out, put in or doubled."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 1, 8, 200)))
        content[start:end] = rng.choice(
            (b"", rng.randbytes(end - start), 2 * content[start:end], b"[" * 2000, b"\xff", b"}")
        )
    return bytes(content)


def altered_value(value, rng, odd=ODD):
    """A copy of nested dicts and lists with one of their parts exchanged, taken out or repeated."""
    value = copy.deepcopy(value)
    places = list(places_in(value))
    container, key = rng.choice(places)
    action = rng.random()
    if action < 0.7:
        container[key] = rng.choice(odd)
    elif action < 0.85:
        del container[key]
    else:
        other, its_key = rng.choice(places)
        container[key] = copy.deepcopy(other[its_key]) if its_key in keys_of(other) else None
    return value


def keys_of(container):
    return container if isinstance(container, dict) else range(len(container))


def places_in(value):
    for key in list(keys_of(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places_in(value[key])


def is_refused(error_type, action, *args):
    """Whether the action ends in such an error, which has to be one line; or does its work."""
    try:
        action(*args)
    except error_type as error:
        told = str(error)
    else:
        return False
    assert told
    assert "\n" not in told
    return True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A stopped training, open: (the TrainingRun, its folder, {file: bytes}, its parts)."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    flags = [*SMALL, "--epochs", 1, "--output_dir", folder]
    flags = [str(flag) for flag in flags]
    assert train_discriminator.main(flags) == 0
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    parts = {}

    def keep(self, **given):
        parts.update(given)
        return {"test_accuracy": 0.0}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TrainingRun, "start", keep)
        train_discriminator.main(flags)
    with TrainingRun(
        train_discriminator.parse_args(flags), "train_discriminator.py", panels.CLASSIFIER
    ) as opened:
        opened.load_data()
        opened._parts = parts
        yield opened, folder, files


JSON_FILES = ("config.json", "summary.json", "metrics.jsonl")
COUNTS = [400, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", JSON_FILES)
def test_json_files(run, tmp_path, name, count):
    """A start that goes on from them."""
    _, _, files = run
    settings = json.loads(files["config.json"])["settings"]

    def go_on(folder):
        with RunFolder(folder, settings, ("output_dir",)) as taken:
            taken.finished_summary(5, 5)
            taken.begin(5, "a device")
            taken.records()

    refused = 0
    for number in range(count):
        rng = random.Random(f"{name} {number}")
        folder = tmp_path / str(number)
        folder.mkdir()
        for other in JSON_FILES:
            (folder / other).write_bytes(files[other])
        if number % 2:
            content = altered_bytes(files[name], rng)
        elif name == "metrics.jsonl":
            lines = altered_value([json.loads(line) for line in files[name].splitlines()], rng)
            content = "\n".join(map(json.dumps, lines)).encode()
        else:
            content = json.dumps(altered_value(json.loads(files[name]), rng)).encode()
        (folder / name).write_bytes(content)
        refused += is_refused(RunError, go_on, folder)
        shutil.rmtree(folder)
    assert refused < count
    assert (refused > 0) == (name == "config.json")


@pytest.mark.parametrize("count", COUNTS)
def test_weights(run, tmp_path, count):
    good = run[2]["discriminator.safetensors"]
    length = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    path, refused = tmp_path / "weights.safetensors", 0
    for number in range(count):
        rng = random.Random(f"weights {number}")
        if number % 2:
            text = json.dumps(altered_value(header, rng)).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        else:
            path.write_bytes(altered_bytes(good, rng))
        refused += is_refused(CheckpointError, load_model, path)
    assert 0 < refused < count


@pytest.mark.parametrize("count", COUNTS)
def test_checkpoints(run, count):
    """With a right checksum; what is taken can be gone on from."""
    opened, folder, files = run
    good = files["checkpoints/step_000000005.pt"][:-32]
    state = torch.load(io.BytesIO(good), weights_only=True)

    def go_on():
        opened._restore(opened.folder.load_state())
        opened._parts["optimizer"].step()

    path, refused = folder / "checkpoints/step_000000007.pt", 0
    for number in range(count):
        rng = random.Random(f"checkpoint {number}")
        if number % 4:
            buffer = io.BytesIO()
            torch.save(altered_value(state, rng, ODD + 3 * TENSORS), buffer)
            payload = buffer.getvalue()
        else:
            payload = altered_bytes(good, rng)
        path.write_bytes(payload + hashlib.sha256(payload).digest())
        refused += is_refused(CheckpointError, go_on)
    path.unlink()
    assert 0 < refused < count
