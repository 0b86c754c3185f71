import os
import resource
import sys

import pytest
import torch

from inside_cnn.core.device import (
    Stream,
    autocast,
    keep_freed_memory,
    launched,
    pick_device,
    pick_precision,
    random_stream,
)
from inside_cnn.core.errors import UserError


def test_auto_device_and_precision_are_usable():
    device = pick_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    precision = pick_precision("auto", device)
    with autocast(device, precision):
        product = torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:1", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UserError, match="--device"):
        pick_device(name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 1, None)),
        ({"RANK": "x", "LOCAL_RANK": "7"}, (0, 1, None)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, None)),
    ],
)
def test_rank_and_world_size_from_the_environment(monkeypatch, values, expected):
    monkeypatch.setattr(os, "environ", values)
    assert launched() == expected


@pytest.mark.parametrize(
    "values", [{}, {"RANK": "x"}, {"RANK": "0", "WORLD_SIZE": ""}, {"RANK": "0", "LOCAL_RANK": "x"}]
)
def test_invalid_numbers_of_processes_are_refused(monkeypatch, values):
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "2"} | values)
    with pytest.raises(UserError, match="WORLD_SIZE is set, but"):
        launched()


def test_processes_do_not_share_a_gpu(monkeypatch):
    monkeypatch.setattr(os, "environ", {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="--device cuda:99 puts all processes on one GPU"):
        pick_device("cuda:99")


@pytest.mark.parametrize(
    ("local_rank", "count", "index"), [(0, 0, None), (1, 1, 0), (3, 4, 3), (2, 2, None)]
)
def test_each_process_has_its_gpu(monkeypatch, local_rank, count, index):
    """Slurm may show each process its own GPU only, as number 0."""
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": str(local_rank)}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr("inside_cnn.core.device.has_kernels", lambda _: True)
    if index is not None:
        assert pick_device("cuda") == torch.device("cuda", index)
        return
    message = f"cuda:{local_rank}, but this machine has {count} usable CUDA"
    with pytest.raises(UserError, match=message):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # binary compatible within a major version
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled by the driver
        ((9, 0), ["gfx90a"], True),  # AMD
    ],
)
def test_gpus_without_kernels(monkeypatch, capsys, capability, architectures, expected):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(torch.version, "hip", "6.4" if "gfx90a" in architectures else None)
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "get_device_capability": capability,
        "get_arch_list": architectures,
        "get_device_name": "Old GPU",
        "set_device": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert pick_device("auto").type == ("cuda" if expected else "cpu")
    assert ("not built for this GPU, Old GPU; using the CPU" in capsys.readouterr().out) != expected
    if not expected:
        with pytest.raises(UserError, match=r"--device cuda: PyTorch .* Old GPU"):
            pick_device("cuda")


def test_auto_precision_follows_the_cpu(monkeypatch):
    for capabilities, expected in (({}, "fp32"), ({"avx512_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert pick_precision("auto", torch.device("cpu")) == expected


def test_random_streams_depend_on_seed_purpose_and_step():
    def sample(*stream):
        return torch.rand(4, generator=random_stream("cpu", *stream))

    assert torch.equal(sample(0, 1, 2), sample(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 1), (0, 1, 3)):
        assert not torch.equal(sample(0, 1, 2), sample(*other))


def test_random_streams_of_published_results():
    """Other seeds would change published scores and the resumption of unfinished runs."""
    values = [Stream[name] for name in Stream.__members__]
    assert values == [0, 1, 2, 3, 0, 10, 12, 20, 30, 32, 40, 41]
    assert random_stream("cpu", 0, Stream.PREVIEW, 1).initial_seed() == 2122545592250308646


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_reused():
    """A block of 64 MB causes no page faults once the heap is large enough; otherwise 15,625."""

    def page_faults():
        for _ in range(10):
            torch.ones(16_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    keep_freed_memory()
    assert -page_faults() + page_faults() < 100
