"""Reasons for a run to stop early: a signal, the clock, divergence."""

import math
import os
import signal
import time

import torch

from inside_cnn.engine.cli import SAVE_FAILED, Stopped

SIGNALS = [getattr(signal, f"SIG{name}", signal.SIGTERM) for name in ("TERM", "INT", "USR1", "HUP")]


def stopped(signal_number, step, saved):
    """The Stopped for a run that ends after `step`; signal_number: 0 if its time is up.

    saved: the checkpoint just written, None if that failed. The exit code is then SAVE_FAILED,
    or that of the signal.
    """
    code = 128 + signal_number if signal_number else 0
    why = f"stopped by {signal.Signals(signal_number).name}" if signal_number else "time is up"
    if saved is None:
        return Stopped(code or SAVE_FAILED, f"{why} after step {step}, which could not be saved")
    return Stopped(code, f"{why} after step {step}; the same command resumes from {saved}")


class StopSignal:
    """A flag for the SIGNALS, which the training loop reads after each step.

    received: the number of the last signal, 0 for none. The handler saves nothing, since it may
    interrupt a save. A second SIGINT ends the process immediately. Signals that the process
    inherited as ignored, such as SIGHUP under nohup, stay ignored.
    """

    def __init__(self):
        self.received = 0
        self._before = {}

    def __enter__(self):
        for signal_number in SIGNALS:
            if signal.getsignal(signal_number) != signal.SIG_IGN:
                self._before[signal_number] = signal.signal(signal_number, self._handle)
        return self

    def __exit__(self, *_):
        for signal_number, handler in self._before.items():
            signal.signal(signal_number, handler)

    def _handle(self, signal_number, _frame):
        if signal_number == signal.SIGINT:
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        self.received = signal_number


class Timer:
    """Whether that many minutes passed since the start or the last reset; None: never."""

    def __init__(self, minutes):
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.reset()

    def reset(self):
        self.start = time.monotonic()

    def is_due(self):
        return time.monotonic() - self.start >= self.seconds


class FiniteGuard:
    """Prevents an optimizer step with a loss or gradient that is not finite, and all later steps.

    The check stays on the device: fused Adam does not change weights and state if its `found_inf`
    is 1, so the CPU does not wait for the GPU. The number of the first bad step is read when the
    run logs or saves, and every `every` steps (every step on the CPU).
    """

    def __init__(self, device, every=50):
        self.every = 1 if device.type == "cpu" else every
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)  # 0: none yet

    def take_step(self, optimizer, loss, step):
        """optimizer.step(), if the loss, all gradients and all earlier steps were finite.

        step: from 1, a number or a scalar tensor. All ranks decide alike, since loss and gradients
        are sums over the ranks.
        """
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
        norms = torch._foreach_norm([g for g in gradients if g is not None])
        total = torch.stack(norms).sum() + loss
        bad = ~torch.isfinite(total) & (self.first_bad == 0)
        self.first_bad.copy_(torch.where(bad, step, self.first_bad))
        optimizer.found_inf = (self.first_bad > 0).float()
        optimizer.step()

    def bad_step(self, step=None):
        """The first bad step, 0 for none. Given a step, only every `every`-th one is checked."""
        if step is not None and step % self.every:
            return 0
        return int(self.first_bad)
