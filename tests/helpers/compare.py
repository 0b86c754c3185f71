"""Comparisons of two runs."""

import json
from functools import partial

import torch

from inside_cnn.engine.weights import load_model
from inside_cnn.training import checkpoint

# Bit-identical dicts, lists and tensors.
assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def records(folder):
    """metrics.jsonl without speed and memory."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("images_per_second") > 0
        assert line.pop("peak_memory_gb") > 0
    return lines


def assert_same_export(a, b):
    """Equal weights and metadata; the order of the metadata in the file is not fixed."""
    (first, first_metadata), (second, second_metadata) = map(load_model, (a, b))
    assert first_metadata == second_metadata
    assert_equal(first.state_dict(), second.state_dict())


def assert_same_run(a, b, all_files=True):
    """Two folders with the same log, state, weights and sample grids, and no temporary files.

    all_files: False where `b` may lack sample grids and best weights that could not be written.
    """
    assert records(a) == records(b)
    assert_equal(*(checkpoint.load_latest(folder / "checkpoints") for folder in (a, b)))
    for path in [*a.glob("*.safetensors"), *a.glob("samples/*.png")]:
        other = b / path.relative_to(a)
        if path.suffix == ".safetensors" and (all_files or other.exists()):
            assert_same_export(path, other)
        elif all_files or other.exists():
            assert path.read_bytes() == other.read_bytes()
    assert not list(b.rglob("*.tmp"))


def relative_error(a, b):
    """Largest difference, as a share of b's largest entry."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
