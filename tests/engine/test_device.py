import subprocess
import sys

import pytest
import torch

from engine.device import (
    DeviceError,
    autocast,
    pick_compile,
    pick_device,
    pick_precision,
    random_stream,
)


def test_auto_device_and_precision_are_usable():
    device = pick_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    precision = pick_precision("auto", device)
    assert precision in ("fp32", "bf16")
    with autocast(device, precision):
        product = torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:", "cpu:1", "mps", ""])
def test_unknown_devices(name):
    with pytest.raises(DeviceError, match="--device"):
        pick_device(name)


def test_cuda_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", "cuda:300"):
        with pytest.raises(DeviceError, match="0 usable CUDA"):
            pick_device(name)


def test_unknown_precision():
    with pytest.raises(DeviceError, match="--precision"):
        pick_precision("fp16", torch.device("cpu"))


def test_auto_precision_follows_the_chip(monkeypatch):
    for found, expected in (({}, "fp32"), ({"avx512_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
        assert pick_precision("auto", torch.device("cpu")) == expected


def test_random_streams_are_functions_of_their_name():
    def draw(*name):
        return torch.rand(4, generator=random_stream("cpu", *name))

    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 1), (0, 1, 3)):
        assert not torch.equal(draw(0, 1, 2), draw(*other))


def test_what_is_compiled():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_compile("auto", cuda)
    assert not pick_compile("off", cuda)
    assert not pick_compile("auto", cuda, processes=2)
    assert not pick_compile("auto", cpu)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept():
    """Once the heap has grown, a block of 64 MB takes no page from the kernel; else all 15,625.

    In a process of its own, since the setting stays.
    """
    program = (
        "import resource, torch\n"
        "from engine.device import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "for _ in range(10): torch.ones(16_000_000)\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(10): torch.ones(16_000_000)\n"
        "print(faults() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) < 100
