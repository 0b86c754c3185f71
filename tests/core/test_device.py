import subprocess
import sys

import pytest
import torch

from inside_cnn.core.device import (
    Stream,
    autocast,
    launched,
    pick_compile,
    pick_device,
    pick_precision,
    random_stream,
)
from inside_cnn.core.errors import UserError


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
    with pytest.raises(UserError, match="--device"):
        pick_device(name)


def test_cuda_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", "cuda:300"):
        with pytest.raises(UserError, match="0 usable CUDA"):
            pick_device(name)


@pytest.fixture
def environment(monkeypatch):
    """environment({name: value}): what a launcher may have set, and nothing else of it."""

    def call(values):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return call


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({}, (0, 1, None)),
        ({"RANK": "1"}, (0, 1, None)),
        ({"RANK": "x", "LOCAL_RANK": "7"}, (0, 1, None)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, None)),
    ],
)
def test_the_place_that_a_launcher_gave(environment, values, place):
    environment(values)
    assert launched() == place


@pytest.mark.parametrize(
    "values",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2"},
        {"WORLD_SIZE": "2", "RANK": "-1"},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"WORLD_SIZE": "", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "0.5"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "none"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"},
    ],
)
def test_a_place_that_does_not_fit(environment, values):
    environment(values)
    with pytest.raises(UserError, match="WORLD_SIZE="):
        launched()


def test_more_processes_than_gpus(environment, monkeypatch):
    environment({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="cuda:1, but this machine has 1 usable CUDA"):
        pick_device("cuda")


def test_unknown_precision():
    with pytest.raises(UserError, match="--precision"):
        pick_precision("fp16", torch.device("cpu"))


def test_auto_precision_follows_the_chip(monkeypatch):
    for found, expected in (({}, "fp32"), ({"avx512_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f)
        assert pick_precision("auto", torch.device("cpu")) == expected


def test_random_streams_are_functions_of_their_name():
    def draw(*name):
        return torch.rand(4, generator=random_stream("cpu", *name))

    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 1), (0, 1, 3)):
        assert not torch.equal(draw(0, 1, 2), draw(*other))


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("REAL", 4324601099084218337),
        ("FAKE_FOR_D", 1554199118406742183),
        ("FAKE_FOR_G", 7203126130259618810),
        ("PREVIEW", 2122545592250308646),
        ("AUGMENTATION", 4324601099084218337),
        ("FLIPS", 1554199118406742183),
        ("ROUNDED", 4324601099084218337),
        ("LATENTS", 4175580719367453055),
        ("WALKS", 2937485897337630194),
        ("TRAINING_SCORES", 1447771431395466762),
        ("NOISY_IMAGES", 1086430124156081792),
        ("STUDY", 4148007013587833365),
        ("PERTURB", 3158542894025179845),
        ("STUDY_NOISE", 3670015351900958715),
        ("NOISE_IN_BANDS", 2781144051570459369),
        ("BASELINE_SETS", 5595502475285813429),
    ],
)
def test_random_streams_of_published_results(name, seed):
    """Another seed would change published scores and the resumption of unfinished runs."""
    assert random_stream("cpu", 0, Stream[name], 1).initial_seed() == seed


def test_what_is_compiled():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_compile("auto", cuda)
    assert not pick_compile("off", cuda)
    assert not pick_compile("auto", cpu)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept():
    """Once the heap has grown, a block of 64 MB takes no page from the kernel; else all 15,625.

    In a process of its own, since the setting stays.
    """
    program = (
        "import resource, torch\n"
        "from inside_cnn.core.device import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "for _ in range(10): torch.ones(16_000_000)\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(10): torch.ones(16_000_000)\n"
        "print(faults() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) < 100
