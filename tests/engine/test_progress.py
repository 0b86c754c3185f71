from engine import progress
from engine.progress import Progress


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0)
    bar = Progress("title", total=3, unit_size=10, done=1)
    bar.step()
    bar.report({"step": 2, "loss": 0.5})
    bar.close()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("title: 2/3, ")
    assert out[1] == "title: step 2, loss 0.5"
