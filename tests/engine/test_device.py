import os
import signal
import subprocess
import sys

import pytest
import torch

from engine import cli
from engine.device import (
    DeviceError,
    autocast,
    keep_freed_memory,
    pick_compile,
    pick_device,
    pick_precision,
    random_stream,
)
from training import stopping


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


def test_stop_signal_sets_a_flag_and_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.StopSignal() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_code_and_message_of_a_stopped_run():
    by_signal = stopping.stopped(signal.SIGTERM, 7, "the checkpoint", 4)
    assert by_signal.exit_code == 143
    for part in ("SIGTERM", "7", "the checkpoint"):
        assert part in str(by_signal)
    by_clock = stopping.stopped(0, 7, "the checkpoint", 4)
    assert by_clock.exit_code == 0
    assert "time is up" in str(by_clock)
    for number, code in ((0, 4), (signal.SIGUSR1, 138)):
        unsaved = stopping.stopped(number, 7, None, 4)
        assert unsaved.exit_code == code
        assert "could not be saved" in str(unsaved)


def test_clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    clock, never = stopping.Clock(2, 5), stopping.Clock()
    assert not clock.save_due()
    now[0] += 120
    assert clock.save_due()
    assert not clock.time_up()
    clock.saved()
    assert not clock.save_due()
    now[0] += 180
    assert clock.time_up()
    assert not never.save_due()
    assert not never.time_up()


def test_second_interrupt_ends_the_process_at_once():
    program = (
        "import os, signal\n"
        "from training import stopping\n"
        "with stopping.StopSignal():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('too late', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout == "still here\n"


def test_exit_codes(capsys):
    def stopped(_):
        raise cli.Stopped(143, "stopped; saved")

    def wrong(_):
        raise DeviceError("no such device")

    def broken(_):
        raise KeyError("a bug")

    def interrupted(_):
        raise KeyboardInterrupt

    errors = (DeviceError,)
    assert cli.exit_code_of(interrupted, None, errors) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert cli.exit_code_of(lambda _: None, None, errors) == 0
    assert cli.exit_code_of(stopped, None, errors) == 143
    assert cli.exit_code_of(wrong, None, errors) == 2
    captured = capsys.readouterr()
    assert captured.out == "stopped; saved\n"
    assert captured.err == "error: no such device\n"
    with pytest.raises(KeyError):  # a bug keeps its traceback
        cli.exit_code_of(broken, None, errors)


def test_keep_freed_memory_leaves_the_allocator_working():
    keep_freed_memory()
    for _ in range(3):
        assert torch.ones(3_000_000).sum() == 3_000_000


def test_what_is_compiled():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_compile("auto", cuda)
    assert not pick_compile("off", cuda)
    assert not pick_compile("auto", cuda, processes=2)
    assert not pick_compile("auto", cpu)


def test_curves_are_due_at_once_and_then_every_30_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    clock = stopping.Clock()
    assert clock.curves_due()
    assert not clock.curves_due()
    now[0] += 29
    assert not clock.curves_due()
    now[0] += 1
    assert clock.curves_due()
    assert not clock.curves_due()
