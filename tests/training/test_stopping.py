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


def test_exit_codes_of_a_stop_without_a_checkpoint():
    for number, code in ((signal.SIGUSR1, 128 + signal.SIGUSR1), (0, cli.SAVE_FAILED)):
        exit_code, reason = stopping.stopped(number, 7, None).args
        assert exit_code == code
        assert "after step 7, which could not be saved" in reason


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
