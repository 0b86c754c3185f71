import contextlib
import errno
import json
import os

import pytest
import torch

from faults import no_room_for
from inside_cnn.core.errors import UserError
from inside_cnn.engine import cli
from inside_cnn.training import checkpoint
from inside_cnn.training.run_folder import RunFolder

SETTINGS = {"script": "train_gan.py", "width": 8, "lr": 0.1, "epochs": 2}


@pytest.fixture
def start():
    """Open and begin a run, after closing the one before."""
    opened = []

    def call(path, total_steps=100, resume="auto", **changes):
        for folder in opened:
            folder.close()
        folder = RunFolder(path, SETTINGS | changes, ("epochs",), resume)
        opened.append(folder)
        state, _ = folder.open(total_steps)
        folder.begin(state["step"] if state else 0, "a device")
        return folder

    yield call
    for folder in opened:
        folder.close()


def test_config_has_settings_environment_and_changes_of_resumed_runs(start, tmp_path):
    path = tmp_path / "a" / "run"
    start(path).save_state(7, {})
    config = json.loads((path / "config.json").read_text())
    assert config["settings"] == SETTINGS
    assert config["device"] == "a device"
    assert config["versions"]["torch"] == torch.__version__
    assert config["git_commit"]
    start(path, epochs=5)
    after = json.loads((path / "config.json").read_text())
    (resumed,) = after.pop("resumed")
    assert after == config
    assert resumed["after_step"] == 7
    assert resumed["changed"] == {"epochs": 5}


def test_changed_settings_are_refused_by_name(start, tmp_path):
    start(tmp_path).save_state(1, {})
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"other settings \(lr was 0.1, now 0.2\); .*--output_dir"):
        start(tmp_path, lr=0.2, epochs=3)
    assert (tmp_path / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="already holds a run"):
        start(tmp_path, resume="never")


def test_a_run_that_saved_nothing_starts_over(start, tmp_path):
    """As after a lack of memory, with a smaller batch."""
    start(tmp_path)
    start(tmp_path, lr=0.2)
    assert json.loads((tmp_path / "config.json").read_text())["settings"] == SETTINGS | {"lr": 0.2}
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    (tmp_path / "discriminator.safetensors").touch()
    with pytest.raises(UserError, match=r"lr was 0.2, now 0.1"):
        start(tmp_path)


def test_log_is_rewound_to_the_checkpoint(start, tmp_path):
    folder = start(tmp_path)
    for step in (10, 20, 30):
        folder.log({"step": step, "loss": 1 / step})
        if step == 20:
            folder.save_state(20, {})
    with open(folder.metrics_path, "a") as file:
        file.write('{"step": 40, "lo')  # the process was killed here
    assert [record["step"] for record in folder.records()] == [10, 20, 30]
    folder = start(tmp_path)
    folder.log({"step": 30, "loss": 5})
    assert [record["step"] for record in folder.records()] == [10, 20, 30]
    assert folder.records()[-1]["loss"] == 5


def test_failed_writes_are_reported_and_retried(start, tmp_path, capsys, monkeypatch):
    folder = start(tmp_path)
    older = folder.save_state(1, {})
    folder.log({"step": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert folder.save_state(2, {}) is None
        folder.log({"step": 2})
        folder.write("samples/001.png", b"")
    warnings = capsys.readouterr().err
    for name in ("the checkpoint", "metrics.jsonl", "samples/001.png"):
        assert f"could not write {name}: No space left" in warnings
    assert checkpoint.list_checkpoints(folder.checkpoints) == [older]
    with pytest.raises(cli.Stopped, match="No space left"):
        folder.raise_if_anything_failed()
    folder.log({"step": 3})  # the line that failed comes first
    assert [record["step"] for record in folder.records()] == [1, 2, 3]
    folder.save_state(3, {})
    folder.write("samples/001.png", b"")
    folder.raise_if_anything_failed()  # nothing is missing


def test_a_corrupt_newest_checkpoint_is_removed(start, tmp_path):
    folder = start(tmp_path)
    folder.save_state(5, {})
    folder.save_state(10, {}).write_bytes(b"corrupt")
    folder = start(tmp_path)
    for step in (6, 7):
        folder.save_state(step, {})
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["step_000000006.pt", "step_000000007.pt"]


def test_temporary_files_of_killed_writes_are_removed(start, tmp_path):
    temporary = (".curves.png.01234567.tmp", "checkpoints/.step_000000005.pt.89abcdef.tmp")
    others = (".notes.tmp", "thesis/.curves.png.01234567.tmp")
    for name in (*temporary, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    start(tmp_path)
    assert [n for n in (*temporary, *others) if (tmp_path / n).exists()] == list(others)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "*.pt"])
def test_summary_is_kept_until_a_newer_checkpoint_is_written(start, tmp_path, name):
    folder = start(tmp_path)
    folder.save_state(5, {})
    folder.write("summary.json", b'{"step": 5}')
    folder.close()
    for total_steps, summary in ((5, {"step": 5}), (9, None)):  # more epochs were asked for
        again = RunFolder(tmp_path, SETTINGS)
        assert again.open(total_steps)[1] == summary
        again.close()
    with no_room_for(name), contextlib.suppress(UserError):
        start(tmp_path).save_state(6, {})
    assert (tmp_path / "summary.json").exists()
    start(tmp_path).save_state(6, {})
    assert not (tmp_path / "summary.json").exists()


def test_another_checkpoint_format_is_refused_unless_the_run_is_finished(start, tmp_path):
    folder = start(tmp_path)
    checkpoint.save_checkpoint(folder.checkpoints, 3, {"step": 3, "format": 0})
    with pytest.raises(UserError, match="another version of this program"):
        start(tmp_path)
    folder.write("summary.json", b'{"step": 3}')
    start(tmp_path, total_steps=3)


def test_settings_added_later_have_the_value_of_older_runs(start, tmp_path):
    start(tmp_path).save_state(1, {})
    start(tmp_path, gp_batch_shrink=1)
    with pytest.raises(UserError, match="gp_batch_shrink was 1, now 2"):
        start(tmp_path, gp_batch_shrink=2)


def test_deleted_settings_are_refused_if_they_had_an_effect(start, tmp_path):
    start(tmp_path / "a", flip="random").save_state(1, {})
    start(tmp_path / "a")
    start(tmp_path / "b", flip="alternating").save_state(1, {})
    with pytest.raises(UserError, match="flip was 'alternating', now 'random'"):
        start(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{}", "summary.json is not of this run"),
        ("samples/001.png", "", "001.png is not of this run"),
        ("config.json", '{"model_type": "bert"}', "config.json is not of this run"),
        ("config.json", "3", "config.json is not of this run"),
        ("config.json", "# settings", "config.json is no JSON file of this program"),
    ],
)
def test_files_of_others_are_not_overwritten(start, tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        start(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert [path.read_text() for path in files] == [content]
