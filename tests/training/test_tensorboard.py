"""TensorBoard reads every number of a run at every step, once."""

import io
import json

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_gan
from inside_cnn.training.run_folder import RunFolder
from inside_cnn.training.tensorboard import TensorBoard
from processes import SMALL


def opened(folder):
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def test_events_of_a_resumed_run(run_main, tmp_path):
    """Exactly the points of metrics.jsonl, the sample grids and the settings."""
    flags = [*SMALL, "--tensorboard", "--log_every_steps", 2, "--epochs", 3, "--output_dir"]
    assert run_main(train_gan, *flags, tmp_path, "--max_steps", 7)[0] == 0
    assert run_main(train_gan, *flags, tmp_path)[0] == 0
    events, expected = opened(tmp_path), {}
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            expected.setdefault(name, []).append((record["step"], np.float32(value)))
    scalars = {
        name: [(point.step, np.float32(point.value)) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert scalars == expected
    assert [step for step, _ in scalars["step"]] == [2, 4, 5, 6, 7, 8, 10, 12, 14, 15]
    *_, settings = events.Tensors("settings/text_summary")
    text = settings.tensor_proto.string_val[0].decode()
    assert json.loads(text)["epochs"] == 3
    grids = events.Images("samples")
    # The run stopped in the second epoch, after step 7, and wrote a grid there.
    assert [point.step for point in grids] == [0, 5, 7, 10, 15]
    files = io.BytesIO(grids[-1].encoded_image_string), tmp_path / "samples" / "003.png"
    logged, written = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    assert np.array_equal(logged, written)


def test_entries_after_the_last_checkpoint_are_hidden(tmp_path):
    folder = RunFolder(tmp_path, {})
    for step, last in ((0, 8), (6, 9)):  # killed after step 8, resumed from a checkpoint of step 6
        board = TensorBoard(enabled=True)
        board.begin(folder, step)
        for logged in range(step + 1, last + 1):
            board.log({"step": logged, "loss": float(last)})
    points = [(point.step, point.value) for point in opened(tmp_path).Scalars("loss")]
    assert points == [(n, 8.0) for n in range(1, 7)] + [(n, 9.0) for n in range(7, 10)]


def test_a_missing_package_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("inside_cnn.training.tensorboard.find_spec", lambda name: None)
    message = refused(train_gan, *SMALL, "--tensorboard", "--output_dir", tmp_path / "run")
    assert "pip install tensorboard" in message
    assert not (tmp_path / "run").exists()
