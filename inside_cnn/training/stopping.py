"""When a run stops before its end: by a signal, by the clock, or because it diverged."""

import math
import os
import signal
import time

import torch

from inside_cnn.engine.cli import DIVERGED, SAVE_FAILED, Stopped
from inside_cnn.training.checkpoint import list_checkpoints


def stopped(signal_number, step, saved):
    """The Stopped for a run that ends after `step`, by that signal, or 0: its time is up.

    saved: the checkpoint just written, None if that failed: exit code SAVE_FAILED then, unless
    it was a signal, whose code its sender waits for.
    """
    code = 128 + signal_number if signal_number else 0
    why = f"stopped by {signal.Signals(signal_number).name}" if signal_number else "time is up"
    if saved is None:
        return Stopped(code or SAVE_FAILED, f"{why} after step {step}, which could not be saved")
    return Stopped(code, f"{why} after step {step}; the same command goes on from {saved}")


def diverged(step, metrics, checkpoints):
    """The Stopped for a run with metrics, {name: number}, or gradients that are not finite."""
    bad = ", ".join(name for name, value in metrics.items() if not math.isfinite(value))
    last = next(iter(list_checkpoints(checkpoints)), "none")
    return Stopped(
        DIVERGED,
        f"diverged at step {step}: {bad or 'the gradient'} not finite; the step was not taken; "
        f"last checkpoint: {last}",
    )


class StopSignal:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the training loop reads after each step.

    received: the number of the last signal, 0 for none. Nothing is saved inside the handler: it may
    interrupt any line, a save included. A second SIGINT gives up at once.
    """

    def __init__(self):
        self.received = 0
        self._interrupts = 0
        self._before = {}

    def __enter__(self):
        for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._before[signal_number] = signal.signal(signal_number, self._handle)
        return self

    def __exit__(self, *_):
        for signal_number, handler in self._before.items():
            signal.signal(signal_number, handler)

    def _handle(self, signal_number, _frame):
        if signal_number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 2:
                os._exit(130)
        self.received = signal_number


class Clock:
    """When the next checkpoint is due by the clock, and when the run's time is up; None: never.

    The curves are due 10 seconds after the start and then every 30: on a GPU an epoch takes
    seconds, and plotting them after each would take a notable part of that.
    """

    def __init__(self, save_every_minutes=None, max_minutes=None):
        minutes = (math.inf if m is None else m for m in (save_every_minutes, max_minutes))
        self._save_every, self._longest = (60 * m for m in minutes)  # seconds
        self._start = self._last_save = time.monotonic()
        self._last_curves = self._start - 20

    def saved(self):
        self._last_save = time.monotonic()

    def save_due(self):
        return time.monotonic() - self._last_save >= self._save_every

    def curves_plotted(self):
        self._last_curves = time.monotonic()

    def curves_due(self):
        return time.monotonic() - self._last_curves >= 30

    def time_up(self):
        return time.monotonic() - self._start >= self._longest


class FiniteGuard:
    """Prevents an optimizer step whose loss or gradient is not finite, and every later step.

    The decision stays on the device: fused Adam does not change weights and state if its
    `found_inf` is 1, so nobody waits for the GPU. The first bad step is read when the run logs or
    saves anyway, and every `every` steps (on the CPU, where reading costs nothing, every step).
    """

    def __init__(self, device, every=50):
        self.every = 1 if device.type == "cpu" else every
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)  # 0: none yet

    def take_step(self, optimizer, loss, step):
        """optimizer.step(), if the loss, all gradients and all steps before were finite.

        step: from 1, a number or a tensor of one. All ranks decide alike, since loss and gradients
        are sums over the ranks.
        """
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
        norms = torch._foreach_norm([g for g in gradients if g is not None])
        total = torch.stack(norms).sum() + loss
        bad = ~torch.isfinite(total) & (self.first_bad == 0)
        self.first_bad.copy_(torch.where(bad, step, self.first_bad))
        optimizer.grad_scale = None
        optimizer.found_inf = (self.first_bad > 0).float()
        optimizer.step()

    def bad_step(self, step=None):
        """The first bad step, 0 for none. Given a step, reads it at every `every`-th one only."""
        if step is not None and step % self.every:
            return 0
        return int(self.first_bad)
