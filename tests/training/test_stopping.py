import os
import signal
import time

from inside_cnn.engine import cli
from inside_cnn.training import stopping


def test_signals_set_a_flag_and_a_second_sigint_exits(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    before = signal.getsignal(signal.SIGTERM)
    with stopping.StopSignal() as stop:
        assert stop.received == 0
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert stop.received == number
        assert codes == []
        os.kill(os.getpid(), signal.SIGINT)
        assert codes == [130]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_are_ignored_stay_ignored():
    """As SIGHUP under nohup. By default SIGHUP, of a closed terminal, stops the run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == 0
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with stopping.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_exit_code_and_message_of_a_stopped_run(tmp_path):
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
    (tmp_path / "step_000000010.pt").touch()
    by_loss = stopping.diverged(20, {"loss": float("nan"), "other": 1.0}, tmp_path)
    assert by_loss.exit_code == cli.DIVERGED
    for part in ("at step 20: loss not finite", "step_000000010.pt"):
        assert part in str(by_loss)
    assert "the gradient" in str(stopping.diverged(20, {"loss": 1.0}, tmp_path))


def test_timer(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timer, never = stopping.Timer(2), stopping.Timer(None)
    for _ in range(2):
        now[0] += 119
        assert not timer.is_due()
        now[0] += 1
        assert timer.is_due()
        timer.reset()
    assert not never.is_due()
