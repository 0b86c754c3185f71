import json
import os
import shutil

import pytest
import torch
from matplotlib.image import imread

import run_log
from checkpoint import CheckpointError
from run_log import RunError, RunFolder
from runtime import Stopped

SETTINGS = {"script": "train_gan.py", "width": 8, "lr": 0.1, "epochs": 2}


def start(path, step=0, **changes):
    folder = RunFolder(path, SETTINGS | changes, may_change=("epochs",))
    folder.begin(step, "a device")
    return folder


def test_config_holds_settings_and_environment(tmp_path):
    start(tmp_path / "a" / "run")
    config = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert config["settings"] == SETTINGS
    assert config["device"] == "a device"
    assert config["versions"]["torch"] == torch.__version__
    assert config["git_commit"]


def test_a_resumed_run_keeps_its_config_and_notes_the_change(tmp_path):
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


def test_other_settings_are_refused_and_named(tmp_path):
    start(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RunError) as caught:
        start(tmp_path, lr=0.2, epochs=3)
    assert "lr was 0.1, now 0.2" in str(caught.value)
    assert "width" not in str(caught.value)
    assert "epochs" not in str(caught.value)
    assert "--output_dir" in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_resume_never_refuses_a_run(tmp_path):
    start(tmp_path)
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder(tmp_path, SETTINGS, resume="never")


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00", '{"settings": 3}'])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match="damaged"):
        start(tmp_path)
    assert (tmp_path / "config.json").read_text() == content


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        start(tmp_path / "file" / "run")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(RunError, match="cannot write"):
            start(tmp_path / "locked" / "run")


def test_log_and_rewind(tmp_path):
    folder = start(tmp_path)
    for step in (10, 20, 30):
        folder.log({"step": step, "loss": 1 / step})
    with open(folder.metrics_path, "a") as file:
        file.write('{"step": 40, "lo')  # the process died here
    assert [record["step"] for record in folder.records()] == [10, 20, 30]
    folder.begin(20, "a device")
    folder.log({"step": 30, "loss": 5})
    assert [r["step"] for r in folder.records()] == [10, 20, 30]
    assert folder.records()[-1]["loss"] == 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_figures_that_are_not_finite_stop_the_run(tmp_path, bad):
    folder = start(tmp_path)
    path = folder.save_state(10, {"step": 10})
    with pytest.raises(Stopped) as caught:
        folder.log({"step": 20, "loss": bad, "other": 1.0})
    assert caught.value.exit_code == run_log.DIVERGED
    for part in ("loss", "20", str(path)):
        assert part in str(caught.value)
    assert "other" not in str(caught.value)
    assert folder.records() == []


def test_states_of_another_network_or_script_are_refused(tmp_path):
    folder = start(tmp_path / "a")
    assert folder.load_state("cpu") is None
    folder.save_state(3, {"step": 3})
    assert folder.load_state("cpu")["step"] == 3
    for name, change in (("b", {"width": 9}), ("c", {"script": "train_discriminator.py"})):
        other = start(tmp_path / name, **change)
        shutil.copytree(folder.checkpoints, other.checkpoints, dirs_exist_ok=True)
        with pytest.raises(CheckpointError, match="another network"):
            other.load_state("cpu")


def test_results_without_checkpoints_are_not_written_over(tmp_path):
    folder = start(tmp_path)
    folder.write_summary({"step": 5})
    with pytest.raises(RunError, match="without its checkpoints"):
        folder.load_state("cpu")


def test_finished_summary(tmp_path):
    folder = start(tmp_path)
    assert folder.finished_summary(5, 5) is None
    folder.write_summary({"step": 5, "accuracy": 1.0})
    assert folder.finished_summary(5, 5)["accuracy"] == 1.0
    assert folder.finished_summary(5, 6) is None  # more epochs were asked for
    assert folder.finished_summary(6, 6) is None  # ended, but not summed up again


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(run_log, "PLAIN_LINE_SECONDS", 0)
    progress = run_log.Progress("title", total=3, unit_size=10, done=1)
    progress.step()
    progress.report({"step": 2, "loss": 0.5})
    progress.close()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("title: 2/3, ")
    assert out[1] == "title: step 2, loss 0.5"


def test_image_grid_shows_every_pixel(tmp_path):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[0, 0] = 255  # red, then green, blue and black
    images[1, 1] = 255
    images[2, 2] = 255
    path = tmp_path / "grid.png"
    run_log.save_image_grid(images, path, columns=2, scale=2, gap=4)
    picture = imread(path)[:, :, :3]
    assert picture.shape == (8 + 2 * 68 + 4, 4 + 2 * 68, 3)
    for index, (row, column) in enumerate([(8, 4), (8, 72), (76, 4), (76, 72)]):
        block = picture[row : row + 64, column : column + 64]
        expected = [float(channel == index) for channel in range(3)]
        assert (block == torch.tensor(expected).numpy()).all()


def test_image_grid_with_all_its_texts(tmp_path):
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    run_log.save_image_grid(images, plain)
    names, captions = [f"class {i}" for i in range(10)], ["one\ntwo"] * 20
    run_log.save_image_grid(images, full, names, "title", captions)
    assert imread(full).shape[0] == imread(plain).shape[0] + 38 + 2 * 26


def test_curves(tmp_path):
    records = [{"epochs_done": e, "loss": 1 / e} | ({"acc": e} if e > 1 else {}) for e in (1, 2, 3)]
    path = tmp_path / "curves.png"
    run_log.save_curves(records, path, {"loss": {"loss": "train"}, "acc": {"acc": "a", "no": "b"}})
    assert imread(path).std() > 0
    path.unlink()
    run_log.save_curves([], path, {"loss": {"loss": "train"}})
    assert not path.exists()
