from functools import partial

import pytest
import torch

import data_tools
import processes
import train_gan
from compare import assert_equal, records
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.metrics import scores
from processes import SMALL
from steps import at_pass, samples_replaced

SCORES = {"frechet_distance", "kernel_distance", "class_consistency"}


@pytest.fixture
def scored_run(run_main, tmp_path, monkeypatch):
    """A small run with --evaluate_every 1 and a judge; statistics of a few images, for speed."""
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 2)
    torch.manual_seed(0)
    judge = tmp_path / "judge.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    flags = [*SMALL, "--limit_train", 100, "--batch_size", 50, "--evaluate_every", 1]
    flags += ["--judge", judge, "--output_dir", tmp_path / "run"]
    return partial(run_main, train_gan, *flags)


def real_images():
    """Two thousand images of the set, in place of samples."""
    train_set, _ = data_tools.load_shapes()
    return data_tools.to_signed(train_set.images[:2000])


def test_scores_are_logged_and_the_best_generator_is_exported(scored_run, tmp_path):
    """In epoch 2 of 3, of two steps each, the samples are real images, which are the best."""
    switch, averages = {"on": False}, []

    def end_of_epoch_2():
        switch.update(on=False)
        averages.append(load_model(tmp_path / "run" / "generator.safetensors")[0])

    actions = {3: lambda: switch.update(on=True), 5: end_of_epoch_2}
    with samples_replaced(Generator, real_images(), switch), at_pass(Generator, actions):
        assert scored_run("--epochs", 3)[0] == 0
    lines = records(tmp_path / "run")
    assert all(line.keys() >= SCORES for line in lines)
    distances = [line["frechet_distance"] for line in lines]
    assert min(distances) == distances[1]
    best, metadata = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert metadata["step"] == 4
    assert {name: metadata[name] for name in SCORES} == {name: lines[1][name] for name in SCORES}
    assert_equal(dict(best.state_dict()), dict(averages[0].state_dict()))


def test_other_weights_of_the_judge_restart_the_comparison(scored_run, tmp_path):
    """The name of the file has no effect. Epoch 1, of real images, was the best."""
    with samples_replaced(Generator, real_images(), {"on": True}):
        scored_run("--epochs", 3, "--max_steps", 2)
    for seed, steps, best in ((0, 4, 2), (1, 6, 6)):
        torch.manual_seed(seed)
        judge = tmp_path / f"judge of seed {seed}.safetensors"
        export_model(Discriminator(4), judge, {"dataset": "shapes"})
        assert scored_run("--epochs", 3, "--max_steps", steps, "--judge", judge)[0] == 0
        _, metadata = load_model(tmp_path / "run" / "generator_best.safetensors")
        assert metadata["step"] == best


def test_an_unsuitable_judge_is_refused(scored_run, tmp_path):
    for flags, message in (
        (["--judge", tmp_path / "absent"], "no weights at"),
        (["--hold_out", 200], "trained with --hold_out 0, not 200"),
        (["--limit_train", 19, "--batch_size", 8], "needs at least 20 real images"),
    ):
        code, _, err = scored_run("--epochs", 1, *flags)
        assert code == 2
        assert message in err
    assert not (tmp_path / "run").exists()
    trained = {"dataset": "shapes", "hold_out": 200}
    export_model(Discriminator(4), tmp_path / "judge.safetensors", trained)
    assert scored_run("--epochs", 1, "--hold_out", 200)[0] == 0


@pytest.mark.slow
def test_two_processes_log_the_same_fields(tmp_path):
    judge = tmp_path / "judge.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    flags = [*SMALL, "--limit_train", 1000, "--batch_size", 500, "--epochs", 3]
    flags += ["--evaluate_every", 2, "--judge", judge, "--output_dir", tmp_path / "run"]
    codes, out, err = processes.run("train_gan.py", flags, ranks=2)
    assert codes == [0, 0], out + err
    lines = records(tmp_path / "run")
    assert [line.keys() >= SCORES for line in lines] == [False, True, False]
    _, metadata = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert {name: metadata[name] for name in SCORES} == {name: lines[1][name] for name in SCORES}
