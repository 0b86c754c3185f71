"""--evaluate_every: scores during the GAN's training, and the best generator."""

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
    flags = [*SMALL, "--limit_train", 1000, "--batch_size", 500, "--evaluate_every", 1]

    def call(*more, folder="run"):
        return run_main(
            train_gan, *flags, "--judge", judge, *more, "--output_dir", tmp_path / folder
        )

    return call


def real_images():
    """Two thousand images of the set, in place of samples."""
    train_set, _ = data_tools.load_shapes()
    return data_tools.to_signed(train_set.images[:2000])


def test_scores_are_logged_and_the_best_generator_is_exported(scored_run, tmp_path):
    """In epoch 2 of 3, of two steps each, the samples are real images, which are the best."""
    switch = {"on": False}
    actions = {3: lambda: switch.update(on=True), 5: lambda: switch.update(on=False)}
    with samples_replaced(Generator, real_images(), switch), at_pass(Generator, actions):
        assert scored_run("--epochs", 3)[0] == 0
    lines = records(tmp_path / "run")
    assert all(line.keys() >= SCORES for line in lines)
    distances = [line["frechet_distance"] for line in lines]
    assert min(distances) == distances[1]
    best, metadata = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert metadata["step"] == 4
    assert {name: metadata[name] for name in SCORES} == {name: lines[1][name] for name in SCORES}
    scored_run("--epochs", 3, "--max_steps", 4, folder="two epochs")
    average, _ = load_model(tmp_path / "two epochs" / "generator.safetensors")
    assert_equal(dict(best.state_dict()), dict(average.state_dict()))


@pytest.mark.parametrize(("file", "seed", "best"), [("other", 0, 2), ("judge", 1, 4)])
def test_other_weights_of_the_judge_restart_the_comparison(scored_run, tmp_path, file, seed, best):
    """The name of the file has no effect. Epoch 1, of real images, was better."""
    with samples_replaced(Generator, real_images(), {"on": True}):
        scored_run("--epochs", 2, "--max_steps", 2)
    torch.manual_seed(seed)
    judge = tmp_path / f"{file}.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    assert scored_run("--epochs", 2, "--judge", judge)[0] == 0
    _, metadata = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert metadata["step"] == best


def test_a_missing_judge_is_refused(refused, tmp_path):
    flags = [*SMALL, "--evaluate_every", 1, "--judge", tmp_path / "absent", "--output_dir"]
    assert "no weights at" in refused(train_gan, *flags, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_log_the_same_fields(tmp_path):
    judge = tmp_path / "judge.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    flags = [*SMALL, "--limit_train", 1000, "--batch_size", 500, "--epochs", 3]
    flags += ["--evaluate_every", 2, "--judge", judge, "--output_dir", tmp_path / "run"]
    done = processes.run("train_gan.py", flags, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = records(tmp_path / "run")
    assert [line.keys() >= SCORES for line in lines] == [False, True, False]
    _, metadata = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert {name: metadata[name] for name in SCORES} == {name: lines[1][name] for name in SCORES}
