import json
import os
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from compare import assert_equal
from discriminator import Discriminator
from generator import Generator, sample_latents
from inside_cnn.core.device import peak_memory
from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import Dataset
from inside_cnn.engine import weights


def test_export_loads_here_and_into_a_reimplementation(tmp_path, images):
    class Critic(torch.nn.Module):
        def __init__(self, width=5):
            super().__init__()
            sizes, nn = (32, 16, 16, 8, 8, 8, 8, 4), torch.nn
            self.blocks = nn.Sequential()
            for i, stride in enumerate((1, 2, 1, 2, 1, 1, 1, 2)):
                conv = nn.Conv2d(width if i else 3, width, 3, stride, padding=1)
                norm = nn.LayerNorm([width, sizes[i], sizes[i]])
                self.blocks.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.01)))
            self.critic_head, self.class_head = nn.Linear(width, 1), nn.Linear(width, 10)

    model = Discriminator(width=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    path, given = tmp_path / "d.safetensors", {"recipe": "classic", "test_accuracy": 88.25}
    weights.export_model(model, path, given)
    loaded, metadata = weights.load_model(path, kind="discriminator")
    assert not loaded.training
    assert metadata.items() >= (given | {"kind": "discriminator", "width": 5}).items()
    assert_equal(dict(loaded.state_dict()), dict(model.state_dict()))
    copy = Critic()
    copy.load_state_dict(load_file(path), strict=True)
    logits = copy.class_head(copy.blocks(images).amax((2, 3)))
    torch.testing.assert_close(logits, model(images)[1])


@pytest.mark.parametrize("in_8_bits", [False, True])
@pytest.mark.parametrize("width", [4, 5])  # with 4 channels a 4x4 map has the same shape both ways
def test_exports_of_the_older_layout(tmp_path, images, in_8_bits, width):
    """They store LayerNorm's parameters as (h, w, channels) and have no field `layout`."""
    model, path = Discriminator(width), tmp_path / "d.safetensors"
    state = {}
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.randn_like(tensor))
        state[name] = (tensor.movedim(0, -1) if tensor.ndim == 3 else tensor).contiguous()
    save_file(
        weights.to_8_bits(state) if in_8_bits else state, path, METADATA | {"width": str(width)}
    )
    loaded, _ = weights.load_model(path)
    for name, tensor in loaded.state_dict().items():
        expected = model.state_dict()[name]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0.02 if in_8_bits else 0)


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "d.safetensors"
    weights.export_model(Discriminator(width=2), path, {})
    return path


def recast(tensors, dtype):
    tensors["critic_head.bias"] = tensors["critic_head.bias"].to(dtype)


METADATA = {"kind": "discriminator", "width": "2", "num_classes": "10"}
WITH_LAYOUT = METADATA | {"layout": weights.LAYOUT}


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t.pop("critic_head.bias"), WITH_LAYOUT, "do not fit"),
        (lambda t: t.update(extra=torch.zeros(1)), WITH_LAYOUT, "do not fit"),
        (lambda t: t.update({"critic_head.bias": torch.zeros(2)}), WITH_LAYOUT, "do not fit"),
        (lambda t: None, WITH_LAYOUT | {"width": "3"}, "do not fit"),
        (lambda t: t["critic_head.bias"].fill_(float("nan")), WITH_LAYOUT, "NaN"),
        (lambda t: t["critic_head.bias"].fill_(1e38), WITH_LAYOUT, "huge"),
        (lambda t: None, WITH_LAYOUT | {"width": "__import__('os')"}, "impossible sizes"),
        (lambda t: None, WITH_LAYOUT | {"num_classes": "many"}, "impossible sizes"),
        (lambda t: None, WITH_LAYOUT | {"kind": "[]"}, "not exported"),
        (lambda t: None, WITH_LAYOUT | {"kind": "[" * 10_000}, "not exported"),
        (lambda t: recast(t, torch.int8), WITH_LAYOUT, "do not fit"),
        (lambda t: recast(t, torch.complex64), WITH_LAYOUT, "do not fit"),
        (lambda t: None, None, "not exported"),
    ],
)
def test_unsuitable_weights_are_refused(exported, change, metadata, message):
    tensors = load_file(exported)
    change(tensors)
    save_file(tensors, exported, metadata)
    with pytest.raises(UserError, match=message):
        weights.load_model(exported)


def test_files_of_another_kind_missing_and_truncated_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="holds a discriminator"):
        weights.load_model(exported, kind="generator")
    with pytest.raises(UserError, match="no weights"):
        weights.load_model(tmp_path / "nowhere.safetensors")
    content = exported.read_bytes()
    for length in (0, 8, len(content) - 1):
        exported.write_bytes(content[:length])
        with pytest.raises(UserError):
            weights.load_model(exported)
    # The header claims to be longer than the file.
    exported.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    with pytest.raises(UserError):
        weights.load_model(exported)


def test_huge_tensors_are_refused_before_memory_is_allocated(tmp_path):
    """A sparse file whose 8 GiB of int8 would become 32 GiB of float32."""
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
    with pytest.raises(UserError, match="do not fit"):
        weights.load_model(path)
    assert peak_memory(torch.device("cpu")) < before + 1e9


def test_weights_in_8_bits_are_within_half_a_level(tmp_path):
    torch.manual_seed(0)
    model = Generator(width=12)
    model(sample_latents(torch.arange(8)))  # moves BatchNorm's running averages
    with torch.no_grad():
        model.to_rgb.weight[1] = 0  # a row without a scale
    path = tmp_path / "small.safetensors"
    weights.export_model(model, path, {}, in_8_bits=True)
    weights.export_model(model, tmp_path / "large.safetensors", {})
    assert path.stat().st_size < 0.5 * (tmp_path / "large.safetensors").stat().st_size
    loaded = weights.load_model(path, kind="generator")[0].state_dict()
    for name, weight in model.state_dict().items():
        if weight.ndim < 2:
            assert torch.equal(loaded[name], weight), name
            continue
        assert loaded[name].dtype == torch.float32
        level = weight.flatten(1).abs().amax(1) / 127
        error = (loaded[name] - weight).flatten(1).abs().amax(1)
        assert (error <= 0.501 * level).all(), name
    assert (loaded["to_rgb.weight"][1] == 0).all()


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda t: t.update({"nothing.scale": torch.ones(3)}),
        lambda t: t.update({"to_rgb.weight.scale": torch.ones(4)}),
        lambda t: t.pop("to_rgb.weight.scale"),
        lambda t: t.update({"to_rgb.bias": torch.zeros(3, dtype=torch.int8)}),
        lambda t: t["to_rgb.weight.scale"].fill_(float("nan")),
    ],
)
def test_corrupt_weights_in_8_bits_are_refused(tmp_path, corrupt):
    path = tmp_path / "small.safetensors"
    weights.export_model(Generator(width=4), path, {}, in_8_bits=True)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    corrupt(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=r"small\.safetensors"):
        weights.load_model(path)


FILE = "generator.safetensors"


@pytest.mark.parametrize(
    ("given", "existing", "expected"),
    [
        (None, [], "output/gan"),
        (None, ["results/gan"], "results/gan"),
        (None, ["results/baseline"], "output/gan"),
        (None, ["output/gan", "results/gan"], "output/gan"),
        (None, ["output/baseline", "results/gan"], "results/gan"),
        ("mine", ["mine", "output/gan", "results/gan"], "mine"),
        (f"mine/{FILE}", ["mine", "output/gan"], "mine"),
        ("results/gan", ["output/gan", "results/gan"], "results/gan"),
    ],
)
def test_order_of_given_own_and_published_weights(
    tmp_path, monkeypatch, capsys, given, existing, expected
):
    monkeypatch.setattr(weights, "RESULTS", tmp_path / "results")
    for folder in existing:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / FILE).touch()
    path = weights.find_weights(given, FILE, "gan")
    assert path == Path(expected, FILE)
    assert weights.is_published(path) == expected.startswith("results")
    replaced = given is None and expected.startswith("results")
    line = f"no output/gan/{FILE}: using the published results/gan/{FILE}\n"
    assert capsys.readouterr().out == (line if replaced else "")


DOGS = {"class_names": ["cat", "dog"], "num_classes": 2}
COWS = {"class_names": ["cat", "cow"], "num_classes": 2}
UNNAMED = {"num_classes": 2}


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ([DOGS, DOGS], ["cat", "dog"]),
        ([UNNAMED, DOGS], ["cat", "dog"]),
        ([UNNAMED, UNNAMED], ["0", "1"]),
        ([DOGS, COWS], None),
        ([DOGS, {"class_names": ["0", "1"], "num_classes": 2}], None),
        ([DOGS, {"class_names": ["dog", "cat"], "num_classes": 2}], None),
        ([DOGS, {"num_classes": 3}], None),
    ],
)
def test_common_class_names(networks, expected):
    metadata = {f"{k}.safetensors": each for k, each in enumerate(networks)}
    if expected:
        assert weights.common_class_names(metadata) == expected
    else:
        with pytest.raises(UserError, match=r"different classes. 0.safetensors: cat, dog"):
            weights.common_class_names(metadata)


@pytest.mark.parametrize("names", [7, [], [1] * 10, ["a\nb"] * 10, ["cat", "dog"]])
def test_invalid_class_names_are_ignored(tmp_path, names):
    weights.export_model(Discriminator(2), tmp_path / "d.safetensors", {"class_names": names})
    _, metadata = weights.load_model(tmp_path / "d.safetensors")
    assert weights.class_names_of(metadata) == list("0123456789")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (DOGS, ""),
        (DOGS | {"dataset": "photos"}, ""),
        (UNNAMED, ""),
        (UNNAMED | {"dataset": "folder"}, ""),
        (UNNAMED | {"dataset": "shapes"}, "trained on shapes, not on folder"),
        (COWS, r"has 2 classes \(cat, cow\), not the 2 of folder \(cat, dog\)"),
        ({"num_classes": 3}, "has 3 classes"),
    ],
)
def test_check_classes(metadata, message):
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    dataset = Dataset("folder", images, torch.arange(2), ("cat", "dog"), "by hand")
    if message:
        with pytest.raises(UserError, match=f"the judge .*{message}"):
            weights.check_classes("the judge", metadata, dataset)
    else:
        weights.check_classes("the judge", metadata, dataset)
