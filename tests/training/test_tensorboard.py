"""What TensorBoard's own reader finds of a run: every figure at every step, once."""

import io
import json
import random
import sys
import threading

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

import processes
import train_discriminator
import train_gan
from engine.files import is_number
from processes import EVERY_STEP, SMALL
from training.tensorboard import EVENTS

EVERY_SECOND = ["--tensorboard", "--log_every_steps", "2"]


def opened(folder):
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def assert_complete(folder, events=None):
    """metrics.jsonl and the sample grids, no point more and none less."""
    events = events or opened(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = {}
    for record in lines:
        for name, value in record.items():
            assert is_number(value)
            expected.setdefault(name, []).append((record["step"], np.float32(value)))
    found = {
        name: [(point.step, np.float32(point.value)) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert found == expected
    grids = sorted((folder / "samples").glob("*.png"))
    shown = events.Images("samples") if grids else []
    assert [point.step for point in shown] == [5 * int(path.stem) for path in grids]
    for point, path in zip(shown, grids, strict=True):
        with Image.open(io.BytesIO(point.encoded_image_string)) as image:
            pixels = np.asarray(image)
        assert (pixels == (imread(path)[..., :3] * 255).round()).all()
    *_, settings = events.Tensors("settings/text_summary")
    told = settings.tensor_proto.string_val[0].decode()
    config = json.loads((folder / "config.json").read_text())
    for resumed in config.get("resumed", [])[-1:]:
        config["settings"] |= resumed["changed"]
    assert json.loads(told) == config["settings"]
    assert sum(path.stat().st_size > 0 for path in folder.glob(EVENTS)) == 1


@pytest.mark.parametrize("script", [train_discriminator, train_gan])
def test_a_run_and_its_resumption(run_main, tmp_path, script):
    flags = [*SMALL, *EVERY_SECOND, "--epochs", 3, "--output_dir", tmp_path]
    assert run_main(script, *flags, "--max_steps", 7)[0] == 0
    before = opened(tmp_path)
    times = {point.step: point.wall_time for point in before.Scalars("step")}
    (tmp_path / "samples/002.png").unlink(missing_ok=True)  # of the half epoch
    assert run_main(script, *flags)[0] == 0
    assert_complete(tmp_path)
    after = {point.step: point.wall_time for point in opened(tmp_path).Scalars("step")}
    assert after.items() >= {step: times[step] for step in (2, 4, 5, 6)}.items()
    # One that looked on all the time has no point twice either.
    assert_complete(tmp_path, before.Reload())


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """Lines that were logged after the last checkpoint are taken back, and come again."""
    flags = [*SMALL, *EVERY_STEP, *EVERY_SECOND, "--epochs", "2", "--output_dir", tmp_path]
    processes.train_through_kills("train_gan.py", flags, tmp_path, 2, random.Random(0))
    assert_complete(tmp_path)


def test_asked_for_when_the_run_goes_on_it_has_the_whole(run_main, tmp_path):
    flags = [*SMALL, "--epochs", 2, "--output_dir", tmp_path]
    assert run_main(train_gan, *flags, "--max_steps", 5)[0] == 0
    assert list(tmp_path.glob(EVENTS)) == []
    assert run_main(train_gan, *flags, "--tensorboard")[0] == 0
    assert_complete(tmp_path)


def test_asked_for_when_the_run_is_finished_it_is_made_too(run_main, tmp_path):
    flags = [*SMALL, "--epochs", 2, "--output_dir", tmp_path]
    assert run_main(train_gan, *flags)[0] == 0
    (tmp_path / "samples/000 (copy).png").write_text("of somebody's own")
    (tmp_path / "samples/001.png").write_text("damaged")
    code, out, err = run_main(train_gan, *flags, "--tensorboard")
    assert (code, err) == (0, "")
    assert "finished already" in out
    events = opened(tmp_path)
    assert [point.step for point in events.Scalars("critic_gap")] == [5, 10]
    assert [point.step for point in events.Images("samples")] == [0, 10]


@pytest.mark.slow
def test_rank_0_alone_writes(tmp_path):
    flags = [*SMALL, *EVERY_SECOND, "--epochs", "1", "--output_dir", tmp_path]
    done = processes.run("train_gan.py", flags, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(tmp_path)


def test_damaged_events_are_made_anew(run_main, tmp_path):
    flags = [*SMALL, *EVERY_SECOND, "--epochs", 2, "--output_dir", tmp_path]
    assert run_main(train_discriminator, *flags, "--max_steps", 5)[0] == 0
    (path,) = tmp_path.glob(EVENTS)
    path.write_bytes(path.read_bytes()[:700] + b"odd" + path.read_bytes()[703:])
    assert run_main(train_discriminator, *flags)[0] == 0
    assert_complete(tmp_path)


def test_events_of_other_programs_stay(run_main, tmp_path):
    other = tmp_path / "events.out.tfevents.1700000000.host.1.0"
    other.write_bytes(b"another program's")
    flags = [*SMALL, "--tensorboard", "--epochs", 2, "--output_dir", tmp_path]
    for more in (["--max_steps", 5], []):
        assert run_main(train_discriminator, *flags, *more)[0] == 0
    assert other.read_bytes() == b"another program's"
    other.unlink()
    assert_complete(tmp_path)


def test_a_missing_package_is_told(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    told = refused(train_gan, *SMALL, "--tensorboard", "--output_dir", tmp_path / "run")
    assert "pip install tensorboard" in told
    assert not (tmp_path / "run").exists()


def test_it_is_imported_only_where_it_is_wanted():
    program = "import sys, train_gan; print(*sys.modules)"
    done = processes.run("-c", [program])
    assert done.returncode == 0
    assert not {"tensorboard", "torch.utils.tensorboard"} & set(done.stdout.split())


def test_a_disk_that_fills_ends_the_events_and_not_the_training(run_main, tmp_path, monkeypatch):
    write, written = RecordWriter.write, []

    def full(writer, data):
        written.append(data)
        if len(written) > 20:
            raise OSError(28, "No space left on device")
        write(writer, data)

    flags = [*SMALL, *EVERY_SECOND, "--epochs", 2, "--output_dir", tmp_path]
    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "write", full)
        patched.setattr(threading, "excepthook", lambda _: None)
        code, _, err = run_main(train_gan, *flags, "--max_steps", 5)
    assert code == 0
    assert err.count("no more is written for TensorBoard (No space left on device)") == 1
    assert run_main(train_gan, *flags)[0] == 0
    assert_complete(tmp_path)
