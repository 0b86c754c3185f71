import time

import pytest

from inside_cnn.core import progress
from inside_cnn.core.progress import Progress


def test_progress_prints_plain_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0)
    bar = Progress("title", total=3, unit_size=10, done=1)
    bar.step()
    bar.close()
    assert capsys.readouterr().out.startswith("title: 2/3, ")


def test_speed_counts_the_images_of_a_smaller_batch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = Progress("title", total=4, unit_size=10)
    bar.step()
    bar.step(2)
    now[0] = 3.0
    assert bar.images_per_second() == 4


def test_reports_have_aligned_columns(capsys):
    columns = {"loss": "loss {:.3f}", "score": "score {:6.1f} %"}
    bar = Progress("title", total=4, unit_size=10, columns=columns)
    records = [
        {"epochs_done": 1.0, "loss": 0.5, "images_per_second": 1234.5, "other": 7.0},
        {"epochs_done": 12.5, "loss": 0.25, "score": 99.5, "images_per_second": 1234.5},
    ]
    for record in records:
        bar.step()
        bar.report(record)
    first, second = capsys.readouterr().out.splitlines()
    for text in ("title", "epoch 1 ", "loss 0.500", "score -", "1,234 images/s", "left"):
        assert text in first
    for text in ("epoch 12.5", "loss 0.250", "score   99.5 %"):
        assert text in second
    assert "7" not in first
    assert first.index("images/s") == second.index("images/s")


@pytest.mark.parametrize(
    ("done", "seconds", "expected"),
    [(12, 1, "00:44 left"), (11, 90, "2:13:30 left"), (100, 5, "00:00 left")],
)
def test_time_left(monkeypatch, done, seconds, expected):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = Progress("title", total=100, unit_size=1, done=10)
    bar.done, now[0] = done, float(seconds)
    assert bar.time_left() == expected
