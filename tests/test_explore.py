"""explore.py's command line."""

import socket
import sys

import pytest

import explore


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_weights(refused, here):
    assert "train_discriminator.py" in refused(explore, "--no_browser")


def test_a_taken_port(refused, two_runs, monkeypatch):
    with socket.socket() as other:
        other.bind((explore.LOCAL, 0))
        other.listen()
        taken = other.getsockname()[1]
        assert f"port {taken}" in refused(explore, "--port", taken)
        monkeypatch.setattr(explore, "FIRST_PORT", taken)
        assert taken < explore.free_port(explore.LOCAL, None) < taken + explore.PORTS


def test_a_host_that_is_not_this_machine(refused, two_runs):
    assert "192.0.2.1" in refused(explore, "--host", "192.0.2.1")


def test_without_gradio(refused, two_runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "requirements-explore.txt" in refused(explore, "--no_browser")


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none(refused, port):
    assert "--port" in refused(explore, "--port", port)


def test_who_can_reach_it_is_told(capsys):
    explore.tell("::1", 7860)
    assert "the page: http://[::1]:7860" in capsys.readouterr().out
    explore.tell(explore.LOCAL, 7860)
    assert "ssh -L 7860:127.0.0.1:7860" in capsys.readouterr().out
    explore.tell("0.0.0.0", 7860)
    assert "no password" in capsys.readouterr().out
