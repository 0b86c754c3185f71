"""The bench of quality against time, and the changes that it tries."""

import json
from argparse import Namespace
from functools import partial

import pytest
import torch
from matplotlib.image import imread

import time_to_quality
import train_gan
import variants
from generator import Generator

SHAPES = "--dataset shapes --limit_train 80 --limit_test 40 --batch_size 16 --precision fp32"


def logged(flags="", variant="none", steps=7, points=2):
    args = Namespace(width=4, data_dir=None)
    return time_to_quality.trained(
        args, f"{SHAPES} {flags}", variant, seed=0, steps=steps, points=points, score=False
    )


def figures(record):
    timed = ("cpu_seconds", "images_per_second", "peak_memory_gb")
    return {name: value for name, value in record.items() if name not in timed}


def test_a_trial_takes_its_steps_and_is_tested_at_its_points():
    records = logged()
    assert [record["step"] for record in records] == [4, 7]
    assert records[-1]["kernel_lr"] == pytest.approx(0.02 * (1 - 6 / 7))  # falls to 0 at the end
    assert all("test_accuracy" in record for record in records)
    assert train_gan.TrainingRun is time_to_quality.TrainingRun  # put back


def test_the_clock_counts_steps_after_the_first_ones_alone(monkeypatch):
    """Not the test in between: here a step takes one second, and everything else a thousand."""
    now = [0.0]
    monkeypatch.setattr(time_to_quality.time, "process_time", lambda: now[0])
    monkeypatch.setattr(time_to_quality, "UNTIMED_STEPS", 2)
    update, evaluate = train_gan.update_generator, train_gan.evaluate

    def taking(seconds, function):
        def call(*args, **options):
            now[0] += seconds
            return function(*args, **options)

        return call

    monkeypatch.setattr(train_gan, "update_generator", taking(1, update))
    monkeypatch.setattr(train_gan, "evaluate", taking(1000, evaluate))
    assert [record["cpu_seconds"] for record in logged()] == [2, 5]


@pytest.fixture(scope="module")
def of_the_recipe():
    return figures(logged(steps=4, points=1)[0])


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_trains_and_is_taken_back(of_the_recipe, variant):
    functions = dict(vars(train_gan))
    (record,) = logged(steps=4, points=1, variant=variant)
    assert figures(record).keys() == of_the_recipe.keys()
    assert all(abs(value) < 1e4 for value in figures(record).values())
    same = figures(record) == of_the_recipe
    assert same == (variant in ("none", "longer_averages"))  # no average has a part in training
    assert vars(train_gan) == functions


def test_fakes_that_are_used_again_are_drawn_once(monkeypatch):
    passes = []
    forward = Generator.forward
    monkeypatch.setattr(
        Generator, "forward", lambda model, z: passes.append(model.training) or forward(model, z)
    )
    logged(steps=5, points=1)
    drawn_for_both = sum(passes)
    passes.clear()
    logged(steps=5, points=1, variant="reused_fakes")
    assert (drawn_for_both, sum(passes)) == (10, 5)


@pytest.mark.parametrize("scaled", [False, True])
def test_batches_grow_after_the_warm_up(monkeypatch, scaled):
    sizes, rates = [], []
    loss, set_rates = train_gan.discriminator_loss, train_gan.set_learning_rates

    def noting_loss(discriminator, real, *rest, **options):
        sizes.append(len(real))
        return loss(discriminator, real, *rest, **options)

    def noting_rates(optimizer, factor):
        rates.append(factor)
        set_rates(optimizer, factor)

    monkeypatch.setattr(train_gan, "discriminator_loss", noting_loss)
    monkeypatch.setattr(train_gan, "set_learning_rates", noting_rates)
    first = variants.UNTIMED_STEPS + 2
    variant = "growing_batches_scaled" if scaled else "growing_batches"
    (record,) = logged(steps=first + 4, points=1, variant=variant)
    assert sizes == [4] * first + [8] * 2 + [16] * 2
    assert record["images"] == sum(sizes)
    falling = 1 - first / (first + 4)
    of_8 = rates[2 * first]  # there are two optimizers
    assert of_8 == pytest.approx(falling * (0.5**0.5 if scaled else 1))


def test_other_averages_are_those_of_runs_with_their_flag(monkeypatch, tmp_path):
    """Scored by a stand-in: the sum of the average's weights."""

    class Scores:
        judge = Namespace(digest="stand-in")

        def __call__(self, model):
            total = sum(weight.double().sum().item() for weight in model.parameters())
            return {"frechet_distance": total, "class_consistency": 0.0}

    monkeypatch.setattr(train_gan, "make_scores", lambda *_: Scores())
    kept = partial(variants.longer_averages, (0.3, 0.5))
    monkeypatch.setitem(variants.VARIANTS, "longer_averages", kept)
    output = tmp_path / "trials.jsonl"
    for flags, variant in (("", "longer_averages"), ("--ema_decay 0.5", "none")):
        args = time_to_quality.parse_args(
            ["--width", "4", "--points", "1", "--output", str(output), "--variant", variant]
        )
        args.flags = f"{SHAPES} {flags}".strip()
        time_to_quality.one_seed(args, 12, seed=0)
    recipe, shorter, longer, by_flag = map(json.loads, output.read_text().splitlines())
    assert longer.pop("variant") == "longer_averages of 0.5"
    assert by_flag.pop("variant") == "none"
    assert by_flag.pop("flags") == f"{longer.pop('flags')} --ema_decay 0.5"
    assert len({line["frechet_distance"] for line in (recipe, shorter, longer)}) == 3
    assert min(longer.pop("cpu_seconds"), by_flag.pop("cpu_seconds")) > 0
    assert longer == by_flag


def changed_by(variant, images):
    with variants.VARIANTS[variant]():
        return train_gan.draw(lambda z: z, images, None)


def test_cutout_leaves_a_grey_square(images):
    torch.manual_seed(0)
    holes = changed_by("cutout", images) != images
    for hole in holes.any(1):
        rows, columns = hole.any(1).sum().item(), hole.any(0).sum().item()
        assert 8 <= min(rows, columns) <= max(rows, columns) <= 16
        assert hole.sum() == rows * columns


def test_colour_changes_each_image_as_one(images):
    """A line in every channel: what two pixels of a grey image have is what they keep, scaled."""
    torch.manual_seed(0)
    grey = images[:, :1].expand(-1, 3, -1, -1).contiguous()
    changed = changed_by("colour", grey)
    for before, after in zip(grey, changed, strict=True):
        x, y = before.flatten(), after.flatten()
        slope = ((x - x.mean()) @ (y - y.mean())) / (x - x.mean()).square().sum()
        assert 0.5 <= slope <= 1.5
        assert torch.allclose(y - y.mean(), slope * (x - x.mean()), atol=1e-5)
        assert abs(y.mean() - x.mean()) <= 0.5 + 1e-5


def test_the_budget_is_that_of_the_recipe(monkeypatch, capsys, tmp_path):
    """A step twice as long as the recipe's: half as many steps, and of half the time a quarter."""
    monkeypatch.setattr(time_to_quality, "step_against_the_recipe", lambda _: (0.1, 0.2))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    started, codes = [], [0, 0, 0, -9]

    class Started:
        def __init__(self, command, env):
            started.append(command)

        def wait(self):
            return codes.pop(0)

    monkeypatch.setattr(time_to_quality.subprocess, "Popen", Started)
    flags = ["--images", "128000", "--share", "0.5", "--output", str(tmp_path / "trials.jsonl")]
    seeds = ["--seeds", "3", "4"]
    assert time_to_quality.main([*flags, *seeds, "--time"]) == 0
    assert not started
    assert time_to_quality.main([*flags, *seeds]) == 0
    assert "250 steps" in capsys.readouterr().out
    assert [command[-4:] for command in started] == [
        ["--steps", "250", "--seeds", str(seed)] for seed in (3, 4)
    ]
    assert time_to_quality.main([*flags, *seeds]) == 2  # where one was killed
    assert "[0, -9]" in capsys.readouterr().err
    started.clear()
    codes += [0, 0]
    assert time_to_quality.main([*flags, *seeds, "--steps", "7"]) == 0  # as an earlier run's
    assert [command[-4:] for command in started] == [
        ["--steps", "7", "--seeds", str(seed)] for seed in (3, 4)
    ]


def test_a_step_is_timed_over_whole_periods(monkeypatch):
    """Of 24 steps or a few more: as many penalties and generator's steps as a long run has."""
    taken = []

    def trained(args, flags, variant, seed, steps, points, score):
        taken.append(steps - variants.UNTIMED_STEPS)
        return [{"cpu_seconds": steps - variants.UNTIMED_STEPS}]

    monkeypatch.setattr(time_to_quality, "trained", trained)
    args = time_to_quality.parse_args(["--flags", "--gp_every 4 --gen_train 5"])
    assert list(time_to_quality.step_against_the_recipe(args)) == [1, 1]
    assert taken == [24, 40] * time_to_quality.TURNS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flags", "it's"], "No closing quotation"),
        (["--flags", "--gen_train 2 --wid=64"], "--wid is set by this benchmark"),
        (["--share", 0], "--share"),
        (["--output", "nowhere/trials.jsonl"], "cannot write there"),
        (["--flags", "--gp_every 0"], "--gp_every"),
        (["--draw", "curves.png"], "cannot be read"),
    ],
)
def test_bad_input(refused, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert message in refused(time_to_quality, "--output", tmp_path / "trials.jsonl", *flags)


def test_other_lines_are_not_drawn(refused, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"flags": "--width 4", "seed": 0}')
    files = ["--output", tmp_path / "other.jsonl", "--draw", tmp_path / "curves.png"]
    assert "did not write" in refused(time_to_quality, *files)
    (tmp_path / "other.jsonl").write_text("")
    assert "no trials" in refused(time_to_quality, *files)


def test_the_curves_are_drawn(tmp_path):
    """Of each setting the mean line and, in its colour, a dot for each seed; one legend below."""
    point = {"flags": "--width 4", "share": 1.0, "steps": 4, "budget_images": 9}
    figures = {"test_accuracy": 50.0, "frechet_distance": 90.0, "class_consistency": 40.0}
    lines = [
        point | figures | {"variant": variant, "seed": seed, "step": step}
        for variant in ("none", "colour")
        for seed in (0, 1)
        for step in (2, 4)
    ]
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ["--output", tmp_path / "trials.jsonl", "--draw", tmp_path / "curves.png"]
    assert time_to_quality.main([str(word) for word in files]) == 0
    picture = imread(tmp_path / "curves.png")[..., :3]
    below = picture[-picture.shape[0] // 8 :]
    colourful = (below.max(2) - below.min(2) > 0.5).any(0)
    assert 20 < colourful.sum() < 200  # the legend's two short lines, under all charts
