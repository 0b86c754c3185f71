"""The benchmark of quality against CPU time."""

import json
from argparse import Namespace

import pytest

import time_to_quality
import train_gan

SHAPES = "--dataset shapes --limit_train 80 --limit_test 40 --batch_size 16 --precision fp32"


def train(steps=7, points=2):
    return time_to_quality.train(Namespace(width=4), SHAPES.split(), steps, points, scored=False)


def test_a_trial_is_evaluated_at_its_points_and_its_rates_fall_to_zero():
    records = train()
    assert [record["step"] for record in records] == [4, 7]
    assert [record["images"] for record in records] == [64, 112]
    assert records[-1]["muon_lr"] == pytest.approx(0.02 * (1 - 6 / 7))
    assert all("test_accuracy" in record for record in records)
    assert train_gan.TrainingRun is time_to_quality.TrainingRun  # no longer replaced


def test_only_steps_after_the_first_ones_are_timed(monkeypatch):
    """A step takes one second here, and a test a thousand, which does not count."""
    now = [0.0]
    monkeypatch.setattr(time_to_quality.time, "process_time", lambda: now[0])
    monkeypatch.setattr(time_to_quality, "UNTIMED_STEPS", 2)

    def taking(seconds, function):
        def call(*args, **options):
            now[0] += seconds
            return function(*args, **options)

        return call

    for owner, name, seconds in (
        (train_gan.GAN, "update_generator", 1),
        (train_gan, "evaluate", 1000),
    ):
        monkeypatch.setattr(owner, name, taking(seconds, getattr(owner, name)))
    assert [record["cpu_seconds"] for record in train()] == [2, 5]


def test_the_budget_is_the_time_of_the_recipe(monkeypatch):
    """A step takes twice as long as the recipe's: half of its 1,000 steps of 128 images."""

    def timed(args, flags, steps, points, scored):
        return [{"cpu_seconds": 24 * (0.2 if flags else 0.1)}]

    monkeypatch.setattr(time_to_quality, "train", timed)
    args = time_to_quality.parse_args(["--images", "128000", "--flags=--gen_train 2"])
    assert time_to_quality.steps_in_budget(args) == 500


def test_every_evaluation_adds_a_line(tmp_path, monkeypatch):
    def train(args, flags, steps, points, seed):
        figures = dict.fromkeys(time_to_quality.FIGURES, seed)
        return [{"step": step, "images": 9, "cpu_seconds": 1.0} | figures for step in (1, 2)]

    monkeypatch.setattr(time_to_quality, "train", train)
    monkeypatch.setattr(time_to_quality, "git_commit", lambda: "abc")
    output = tmp_path / "trials.jsonl"
    args = time_to_quality.parse_args(["--output", str(output), "--flags=--gen_train 2"])
    points = [time_to_quality.train_seed(args, steps=2, seed=seed) for seed in (5, 7)]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["seed"], line["step"]) for line in lines] == [(5, 1), (5, 2), (7, 1), (7, 2)]
    assert lines[3].items() >= points[1].items()
    assert lines[3]["flags"] == "--width 32 --gen_train 2"
    assert lines[3]["commit"] == "abc"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flags", "it's"], "--flags"),
        (["--images", 0], "--images"),
        (["--output", "nowhere/trials.jsonl"], "cannot use nowhere/trials.jsonl"),
        (["--flags=--gen_train 0"], "--gen_train"),
    ],
)
def test_bad_input(refused, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(time_to_quality.torch, "set_num_threads", lambda _: None)
    assert message in refused(time_to_quality, "--output", tmp_path / "trials.jsonl", *flags)
