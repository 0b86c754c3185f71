import os
import signal
import subprocess
import sys
import time

import torch

from training import stopping


def test_stop_signal_sets_a_flag_and_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.StopSignal() as stop:
        assert stop.received == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


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


def test_exit_code_and_message_of_a_stopped_run():
    by_signal = stopping.stopped(signal.SIGTERM, 7, "the checkpoint")
    assert by_signal.exit_code == 143
    for part in ("SIGTERM", "7", "the checkpoint"):
        assert part in str(by_signal)
    by_clock = stopping.stopped(0, 7, "the checkpoint")
    assert by_clock.exit_code == 0
    assert "time is up" in str(by_clock)
    for signal_number, code in ((0, 4), (signal.SIGUSR1, 128 + signal.SIGUSR1)):
        unsaved = stopping.stopped(signal_number, 7, None)
        assert unsaved.exit_code == code
        assert "could not be saved" in str(unsaved)


def test_clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
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


def test_curves_are_due_soon_and_then_every_30_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = stopping.Clock()
    assert not clock.curves_due()
    now[0] += 10
    assert clock.curves_due()
    assert clock.curves_due()  # asking changes nothing
    clock.curves_drawn()
    now[0] += 29
    assert not clock.curves_due()
    now[0] += 1
    assert clock.curves_due()
    clock.curves_drawn()
    assert not clock.curves_due()


def test_guard_looks_seldom_and_still_takes_no_step_after_a_bad_one():
    """As on a GPU: the flag is read every 50 steps, the steps in between are not taken."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    guard = stopping.FiniteGuard(torch.device("cpu"))
    guard.every = 50
    for step in range(1, 60):
        weight.grad = torch.full((3,), float("inf") if step == 4 else 1.0)
        guard.take_step(optimizer, torch.tensor(0.0), step)
        if step == 3:
            good = weight.detach().clone()
        assert guard.bad_step(step) == (4 if step == 50 else 0)
    assert torch.equal(weight, good)
    assert guard.bad_step() == 4
    assert optimizer.state[weight]["step"] == 3
