import contextlib
import errno
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from engine import cli
from engine.cli import Stopped
from engine.output_folder import RunError
from engine.weights import CheckpointError
from faults import no_room_for
from training import checkpoint
from training.run_folder import FORMAT, RunFolder

SETTINGS = {"script": "train_gan.py", "width": 8, "lr": 0.1, "epochs": 2}


@pytest.fixture
def start():
    """Open and begin a run; the lock of the one before is given back, as at its end."""
    opened = []

    def call(path, step=0, **changes):
        for folder in opened:
            folder.close()
        folder = RunFolder(path, SETTINGS | changes, may_change=("epochs",))
        opened.append(folder)
        folder.begin(step, "a device")
        return folder

    yield call
    for folder in opened:
        folder.close()


def test_config_holds_settings_and_environment(start, tmp_path):
    start(tmp_path / "a" / "run")
    config = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert config["settings"] == SETTINGS
    assert config["device"] == "a device"
    assert config["versions"]["torch"] == torch.__version__
    assert config["git_commit"]


def test_a_resumed_run_keeps_its_config_and_notes_the_change(start, tmp_path):
    start(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["git_commit"] = "the commit of the first start"
    (tmp_path / "config.json").write_text(json.dumps(config))
    start(tmp_path, step=7, epochs=5)
    after = json.loads((tmp_path / "config.json").read_text())
    resumed = after.pop("resumed")
    assert after == config
    assert [entry["after_step"] for entry in resumed] == [7]
    assert resumed[0]["changed"] == {"epochs": 5}
    assert resumed[0]["git_commit"] != config["git_commit"]


def test_other_settings_are_refused_and_named(start, tmp_path):
    start(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RunError) as caught:
        start(tmp_path, lr=0.2, epochs=3)
    assert "lr was 0.1, now 0.2" in str(caught.value)
    assert "width" not in str(caught.value)
    assert "epochs" not in str(caught.value)
    assert "--output_dir" in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_resume_never_refuses_a_run(start, tmp_path):
    start(tmp_path)
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder(tmp_path, SETTINGS, resume="never")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[1]", b"\x00", b"\xff", b"null", b"[" * 100_000),
        *(b'{"settings": 3}', b'{"settings": {}, "resumed": 5}'),
    ],
)
def test_a_damaged_config_is_refused(start, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        start(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "metrics.jsonl", "step_000000005.pt"]
)
def test_what_cannot_be_read_just_now_is_not_taken_for_absent(start, tmp_path, monkeypatch, name):
    """Nor for damaged: nothing is changed."""
    folder = start(tmp_path)
    folder.log({"step": 5})
    folder.save_state(5, {})
    folder.write_summary({"step": 5, "test_accuracy": 1.0})
    folder.close()
    before = files_of(tmp_path)
    read = Path.read_bytes

    def stale(path):
        if path.name == name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(path)

    def go_on():
        folder = RunFolder(tmp_path, SETTINGS)
        folder.load_state()
        folder.finished_summary(5, 5)
        folder.begin(5, "a device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", stale)
        with pytest.raises((RunError, CheckpointError), match=os.strerror(errno.ESTALE)):
            go_on()
    assert files_of(tmp_path) == before


def test_a_folder_that_cannot_be_written(start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        start(tmp_path / "file" / "run")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(RunError, match="cannot write"):
            start(tmp_path / "locked" / "run")


def test_log_and_rewind(start, tmp_path):
    folder = start(tmp_path)
    for step in (10, 20, 30):
        folder.log({"step": step, "loss": 1 / step})
    with open(folder.metrics_path, "a") as file:
        file.write('{"step": 40, "lo')  # the process died here
    assert [record["step"] for record in folder.records()] == [10, 20, 30]
    folder = start(tmp_path, 20)
    folder.log({"step": 30, "loss": 5})
    assert [r["step"] for r in folder.records()] == [10, 20, 30]
    assert folder.records()[-1]["loss"] == 5


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b'{"step": "x"}', b"5", b"\xff\xfe", b"[" * 100_000]
)
def test_a_damaged_line_of_the_log_costs_that_line_alone(start, tmp_path, capsys, line):
    folder = start(tmp_path)
    for step in (10, 20):
        folder.log({"step": step})
    first, second = folder.metrics_path.read_bytes().splitlines(keepends=True)
    damaged = first + line + b"\n" + second
    folder.metrics_path.write_bytes(damaged)
    assert [record["step"] for record in folder.records()] == [10, 20]
    folder = start(tmp_path, 20)
    assert folder.metrics_path.read_bytes() == first + second
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged
    assert capsys.readouterr().out.count("lines of") == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_names_the_step_the_figures_and_the_last_checkpoint(start, tmp_path, bad):
    folder = start(tmp_path)
    path = folder.save_state(10, {"step": 10})
    with pytest.raises(Stopped) as caught:
        folder.raise_diverged(20, {"loss": bad, "other": 1.0})
    assert caught.value.exit_code == cli.DIVERGED
    for part in ("loss", "20", str(path)):
        assert part in str(caught.value)
    assert "other" not in str(caught.value)


def test_one_run_one_writer(start, tmp_path):
    start(tmp_path)
    second = RunFolder(tmp_path, SETTINGS)
    with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on "):
        second.lock()
    start(tmp_path)
    with pytest.raises(RunError, match="in use"):
        second.begin(0, "a device")


def test_the_lock_of_a_folder_that_was_made_anew(start, tmp_path, capsys):
    """The first run holds a lock that is no longer there; the second one writes alone."""
    path = tmp_path / "run"
    first = start(path)
    shutil.rmtree(path)
    second = RunFolder(path, SETTINGS)
    second.begin(0, "a device")
    second.log({"step": 1})
    before = files_of(path)
    first.log({"step": 2})
    first.save_state(2, {})
    assert "removed or replaced" in capsys.readouterr().err
    assert files_of(path) == before
    with pytest.raises(Stopped, match="removed or replaced"):
        first.raise_if_anything_failed()
    second.close()


def test_a_lock_that_is_a_link_is_not_followed(start, tmp_path):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_bytes(b"precious")
    run.mkdir()
    (run / ".lock").symlink_to(victim)
    with pytest.raises(RunError, match="cannot write"):
        start(run)
    assert victim.read_bytes() == b"precious"


def test_a_write_that_fails_is_told_and_tried_again(start, tmp_path, capsys, monkeypatch):
    folder = start(tmp_path)
    kept = folder.save_state(1, {"step": 1})
    folder.log({"step": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert folder.save_state(2, {"step": 2}) is None
        folder.log({"step": 2})
    assert "No space left" in capsys.readouterr().err
    assert [record["step"] for record in folder.records()] == [1]
    assert checkpoint.list_checkpoints(folder.checkpoints) == [kept]
    with pytest.raises(Stopped, match="No space left") as caught:
        folder.raise_if_anything_failed()
    assert caught.value.exit_code == cli.SAVE_FAILED
    folder.log({"step": 3})  # the line that failed comes first
    assert [record["step"] for record in folder.records()] == [1, 2, 3]
    folder.save_state(3, {"step": 3})
    folder.raise_if_anything_failed()  # all made good: nothing to raise


def test_a_line_that_hits_the_limit_leaves_no_half_line(start, tmp_path, capsys):
    """A write that is cut short, as on a full disk: here by the limit of a file's size."""
    folder = start(tmp_path)
    folder.log({"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        folder.log({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "could not write metrics.jsonl" in capsys.readouterr().err
    assert folder.metrics_path.read_text() == '{"step": 1}\n'
    folder.log({"step": 3})
    assert [record["step"] for record in folder.records()] == [1, 2, 3]


def test_damaged_checkpoints_are_set_aside_when_the_run_goes_on(start, tmp_path):
    folder = start(tmp_path)
    folder.save_state(5, {"step": 5})
    folder.save_state(10, {"step": 10}).write_bytes(b"damaged")
    step = folder.load_state()["step"]
    folder = start(tmp_path, step)
    folder.save_state(6, {"step": 6})
    folder.save_state(7, {"step": 7})
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    good = ["step_000000006.pt", "step_000000007.pt"]
    assert names == [*good, "step_000000010.pt.damaged"]


def test_a_state_that_is_not_finite_is_neither_saved_nor_loaded(start, tmp_path):
    folder = start(tmp_path)
    bad = {"step": 1, "model": {"w": torch.tensor([1.0, float("nan")])}}
    with pytest.raises(Stopped, match="model/w"):
        folder.save_state(1, bad)
    assert checkpoint.list_checkpoints(folder.checkpoints) == []
    identity = {"script": "train_gan.py", "width": 8}
    checkpoint.save_checkpoint(folder.checkpoints, 1, bad | {"of": identity, "format": FORMAT})
    with pytest.raises(CheckpointError, match="not finite"):
        folder.load_state()


def test_only_the_runs_own_temporary_files_are_removed(start, tmp_path):
    """Not those of other programs, nor those of a run in a folder below."""
    stale = [
        *(".curves.png.01234567.tmp", ".generator_best.safetensors.89abcdef.tmp"),
        "checkpoints/.step_000000005.pt.01234567.tmp",
    ]
    others = [
        *(".notes.tmp", ".curves.png.tmp", "thesis/.draft.tmp", ".report.html.01234567.tmp"),
        *("checkpoints/.notes.tmp", "gan/checkpoints/.step_000000005.pt.01234567.tmp"),
    ]
    for name in (*stale, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    start(tmp_path)
    assert [name for name in (*stale, *others) if (tmp_path / name).exists()] == others


@pytest.mark.parametrize("name", ["metrics.jsonl", "generator.safetensors", "samples/001.png"])
def test_a_new_run_overwrites_nothing(start, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(RunError, match=rf"{name} is not of this run"):
        start(tmp_path)
    assert (tmp_path / name).read_bytes() == b"precious"
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "*.pt"])
def test_the_summary_stays_until_a_newer_checkpoint_is_written(start, tmp_path, name):
    folder = start(tmp_path)
    folder.save_state(5, {"step": 5})
    folder.write_summary({"step": 5, "test_accuracy": 1.0})
    summary = (tmp_path / "summary.json").read_bytes()
    with no_room_for(name), contextlib.suppress(RunError):
        start(tmp_path, step=5, epochs=9).save_state(6, {"step": 6})
    assert (tmp_path / "summary.json").read_bytes() == summary
    start(tmp_path, step=5, epochs=9).save_state(6, {"step": 6})
    assert not (tmp_path / "summary.json").exists()  # the run is not finished now


def test_ranks_that_are_no_writers_write_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", SETTINGS, writer=False)
    folder.begin(0, "a device")
    folder.log({"step": 1})
    folder.write_summary({"step": 1})
    assert folder.save_state(1, {}) is None
    assert not (tmp_path / "run").exists()


def test_states_of_another_network_or_script_are_refused(start, tmp_path):
    folder = start(tmp_path / "a")
    assert folder.load_state() is None
    folder.save_state(3, {"step": 3})
    assert folder.load_state()["step"] == 3
    for name, change in (("b", {"width": 9}), ("c", {"script": "train_discriminator.py"})):
        other = start(tmp_path / name, **change)
        shutil.copytree(folder.checkpoints, other.checkpoints, dirs_exist_ok=True)
        with pytest.raises(CheckpointError, match="another network"):
            other.load_state()


def test_results_without_checkpoints_are_not_written_over(start, tmp_path):
    folder = start(tmp_path)
    folder.write_summary({"step": 5})
    with pytest.raises(RunError, match="without its checkpoints"):
        folder.load_state()


def test_finished_summary(start, tmp_path):
    folder = start(tmp_path)
    assert folder.finished_summary(5, 5) is None
    folder.write_summary({"step": 5, "test_accuracy": 1.0})
    assert folder.finished_summary(5, 5)["test_accuracy"] == 1.0
    assert folder.finished_summary(5, 6) is None  # more epochs were asked for
    assert folder.finished_summary(6, 6) is None  # ended, but not summed up again


@pytest.mark.parametrize(
    "content", ["{", "[5]", "5", '{"step": 5}', '{"step": 5, "test_accuracy": []}']
)
def test_a_damaged_summary_is_as_none(start, tmp_path, content):
    folder = start(tmp_path)
    (tmp_path / "summary.json").write_text(content)
    assert folder.finished_summary(5, 5) is None


def test_a_state_of_another_format_is_refused_to_go_on(start, tmp_path):
    folder = start(tmp_path)
    folder.save_state(3, {"weights": torch.ones(2)})
    state = folder.load_state()
    folder.check_format(state)
    older = {key: value for key, value in state.items() if key != "format"}
    for other in (older, state | {"format": FORMAT + 1}):
        with pytest.raises(RunError, match="another version of this program"):
            start(tmp_path).check_format(other)


def test_a_run_that_lacks_a_flag_did_what_its_default_does(start, tmp_path):
    start(tmp_path)  # its settings lack gp_batch_shrink
    start(tmp_path, gp_batch_shrink=1)
    with pytest.raises(RunError, match="gp_batch_shrink was 1, now 2"):
        start(tmp_path, gp_batch_shrink=2)


@pytest.mark.parametrize(
    ("before", "resumes"),
    [
        ({"gp_every": 1}, True),
        ({"gp_every": 4}, False),
        ({"normalise": True, "optimizer": "muon"}, True),
        ({"normalise": False, "optimizer": "adam"}, True),
        ({"normalise": False, "optimizer": "muon"}, False),
    ],
)
def test_a_setting_that_no_longer_exists(start, tmp_path, before, resumes):
    """A run that had it resumes if this version does the same, else the setting is named."""
    start(tmp_path, **before)
    now = {name: value for name, value in before.items() if name == "optimizer"}
    if resumes:
        start(tmp_path, **now)
        return
    name = next(iter(before))
    with pytest.raises(RunError, match=f"{name} was {before[name]}, now None"):
        start(tmp_path, **now)
