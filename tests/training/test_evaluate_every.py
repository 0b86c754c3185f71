"""--evaluate_every: scores during the GAN's training, and the best generator."""

import pytest
import torch

import data_tools
import processes
import train_gan
from compare import assert_equal, assert_same_export, records
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.metrics import scores
from processes import SMALL
from steps import at_pass, drawn_instead

SCORES = {"frechet_distance", "kernel_distance", "class_consistency"}


@pytest.fixture
def small_run(run_main, tmp_path):
    def call(*more, folder="run"):
        return run_main(train_gan, *SMALL, "--output_dir", tmp_path / folder, *more)

    return call


@pytest.fixture
def scored_run(small_run, tmp_path, monkeypatch):
    """small_run with --evaluate_every 1 and a judge; statistics of few images, for speed."""
    monkeypatch.setattr(scores, "KERNEL_SUBSETS", 2)
    torch.manual_seed(0)
    judge = tmp_path / "judge.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    flags = ["--limit_train", 1000, "--batch_size", 500, "--evaluate_every", 1, "--judge", judge]

    def call(*more, folder="run"):
        return small_run(*flags, *more, folder=folder)

    return call


def real_images():
    """Two thousand images of the set, in place of samples: nothing is nearer to it."""
    train_set, _ = data_tools.load_shapes()
    return data_tools.to_signed(train_set.images[:2000])


def test_scores_are_logged_and_the_best_generator_is_kept(scored_run, small_run, tmp_path):
    """In epoch 2 of 3, of two steps each, the samples are real images: the best for sure."""
    switch = {"on": False}
    actions = {3: lambda: switch.update(on=True), 5: lambda: switch.update(on=False)}
    with drawn_instead(Generator, real_images(), switch), at_pass(Generator, actions):
        assert scored_run("--epochs", 3)[0] == 0
    lines = records(tmp_path / "run")
    assert all(line.keys() >= SCORES for line in lines)
    distances = [line["frechet_distance"] for line in lines]
    assert min(distances) == distances[1]
    best, about = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert about["step"] == 4
    assert {name: about[name] for name in SCORES} == {name: lines[1][name] for name in SCORES}
    scored_run("--epochs", 3, "--max_steps", 4, folder="two epochs")
    average, _ = load_model(tmp_path / "two epochs" / "generator.safetensors")
    assert_equal(dict(best.state_dict()), dict(average.state_dict()))


@pytest.mark.parametrize(
    ("file", "seed", "best"),
    [("other", 0, 2), ("judge", 1, 4)],
)
def test_another_judge_starts_the_comparison_anew(scored_run, tmp_path, file, seed, best):
    """Another by its weights, whatever the file is called; epoch 1, of real images, was better."""
    with drawn_instead(Generator, real_images(), {"on": True}):
        scored_run("--epochs", 2, "--max_steps", 2)
    torch.manual_seed(seed)
    judge = tmp_path / f"{file}.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    assert scored_run("--epochs", 2, "--judge", judge)[0] == 0
    _, about = load_model(tmp_path / "run" / "generator_best.safetensors")
    assert about["step"] == best


def test_a_resumed_run_keeps_the_best_of_both_parts(scored_run, tmp_path):
    scored_run("--epochs", 3, folder="whole")
    scored_run("--epochs", 3, "--max_steps", 2, folder="parts")
    scored_run("--epochs", 3, folder="parts")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert records(whole) == records(parts)
    name = "generator_best.safetensors"
    assert_same_export(whole / name, parts / name)


@pytest.mark.slow
def test_scores_do_not_change_the_training(scored_run, tmp_path):
    scored_run("--epochs", 2)
    scored_run("--epochs", 2, "--evaluate_every", 2, folder="seldom")
    assert_same_export(*(tmp_path / f / "generator.safetensors" for f in ("run", "seldom")))
    lines = records(tmp_path / "seldom")
    assert ["frechet_distance" in line for line in lines] == [False, True]


def test_no_judge(small_run, tmp_path):
    code, _, err = small_run("--evaluate_every", 1, "--judge", tmp_path / "absent")
    assert code == 2
    assert "no weights at" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_with_two_processes_the_fields_are_those_of_one(run_main, tmp_path):
    judge = tmp_path / "judge.safetensors"
    export_model(Discriminator(4), judge, {"dataset": "shapes"})
    flags = [*SMALL, "--limit_train", 1000, "--batch_size", 500, "--epochs", 3]
    flags += ["--evaluate_every", 2, "--judge", judge, "--output_dir"]
    assert run_main(train_gan, *flags, tmp_path / "1")[0] == 0
    done = processes.run("train_gan.py", [*flags, tmp_path / "2"], ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (records(tmp_path / name) for name in ("1", "2"))
    assert [line.keys() for line in one] == [line.keys() for line in two]
    assert [line.keys() >= SCORES for line in two] == [False, True, False]
    _, metadata = load_model(tmp_path / "2" / "generator_best.safetensors")
    assert {name: metadata[name] for name in SCORES} == {name: two[1][name] for name in SCORES}
