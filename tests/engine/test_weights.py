import json
import os
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from discriminator import Discriminator
from engine.device import peak_memory
from engine.weights import (
    CheckpointError,
    export_model,
    find_weights,
    load_model,
    own_or_published,
)
from generator import Generator, sample_latents


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
        (lambda t: t["critic_head.bias"].fill_(1e38), METADATA, "huge"),
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


def test_negative_variances_are_refused(tmp_path):
    model = Generator(width=2)
    next(b for name, b in model.named_buffers() if name.endswith("running_var")).fill_(-1)
    export_model(model, tmp_path / "g.safetensors", {})
    with pytest.raises(CheckpointError, match="negative variances"):
        load_model(tmp_path / "g.safetensors")


def test_a_small_file_that_claims_much_is_refused_by_its_header(tmp_path):
    """Its 8 GiB are a hole in the file; a scale would make 32 of them."""
    header = {
        "__metadata__": METADATA,
        "features.weight": {"dtype": "I8", "shape": [2**16, 2**17], "data_offsets": [0, 2**33]},
        "features.weight.scale": {
            "dtype": "F32",
            "shape": [2**16],
            "data_offsets": [2**33, 2**33 + 2**18],
        },
    }
    content = json.dumps(header).encode()
    path = tmp_path / "d.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    os.truncate(path, 8 + len(content) + 2**33 + 2**18)
    before = peak_memory(torch.device("cpu"))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(path)
    assert peak_memory(torch.device("cpu")) < before + 1e9


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
    loaded = load_model(path, kind="generator")[0].state_dict()
    for name, weight in model.state_dict().items():
        if weight.ndim < 2:
            assert torch.equal(loaded[name], weight), name
            continue
        assert loaded[name].dtype == torch.float32
        level = weight.flatten(1).abs().amax(1) / 127
        error = (loaded[name] - weight).flatten(1).abs().amax(1)
        assert (error <= 0.501 * level).all(), name
    assert (loaded["to_rgb.weight"][1] == 0).all()


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


# ------------------------------------------------------------------------------ where they are


def test_own_weights_come_before_the_published(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def find(given=None):
        return find_weights(given, "gan", "generator.safetensors")

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


def test_own_weights_that_will_not_do(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = Path("output/gan/generator.safetensors")
    own.parent.mkdir(parents=True)
    own.touch()
    theirs = published / "gan/generator.safetensors"
    flags = {"run": "gan", "file": "generator.safetensors", "own_will_do": False}
    for there in (False, True):  # where they are missing too, the error names the published ones
        if there:
            theirs.parent.mkdir()
            theirs.touch()
        assert find_weights(None, **flags) == theirs
    assert find_weights(own, **flags) == own
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "there", "together", "mixed"),
    [
        ("", "", "own own", "own own"),
        ("", "theirs.a", "theirs theirs", "theirs own"),
        ("", "theirs.a theirs.b", "theirs theirs", "theirs theirs"),
        ("", "own.a own.b theirs.a theirs.b", "own own", "own own"),
        ("", "own.a theirs.a theirs.b", "own own", "own theirs"),
        ("a", "theirs.a theirs.b", "given own", "given theirs"),
        ("b", "own.a theirs.a", "own given", "own given"),
        ("a b", "own.a theirs.a", "given given", "given given"),
    ],
)
def test_published_files_stand_in_for_all_or_for_each(tmp_path, given, there, together, mixed):
    def place(whose, name):
        return tmp_path / f"{whose}.{name}"

    for file in there.split():
        (tmp_path / file).touch()
    wanted = {
        name: (
            place("given", name) if name in given.split() else None,
            place("own", name),
            place("theirs", name),
        )
        for name in ("a", "b")
    }
    for expected, may_mix in ((together, False), (mixed, True)):
        expected = dict(zip("ab", expected.split(), strict=True))
        chosen = own_or_published(wanted, mixed=may_mix)
        assert chosen == {name: place(whose, name) for name, whose in expected.items()}
