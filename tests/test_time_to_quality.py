"""The bench of quality against time, and the changes that it tries."""

from argparse import Namespace

import pytest
import torch

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
    monkeypatch.setattr(time_to_quality, "WARM_UP", 2)
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
    assert (figures(record) == of_the_recipe) == (variant == "none")
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


def test_half_a_penalty_looks_at_every_second_pair(images):
    seen = []

    def critic(x):
        seen.append(len(x))
        return x.flatten(1).sum(1), None

    alpha = train_gan.sample_alpha(8, images.device)
    with variants.half_penalty():
        norms = train_gan.input_gradient_norms(critic, images, -images, alpha)
    assert seen == [4]
    assert norms.tolist() == pytest.approx([(3 * 32 * 32) ** 0.5] * 4, rel=1e-5)


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


def test_the_budget_is_that_of_the_recipe(monkeypatch, capsys):
    """A step twice as long as the recipe's: half as many steps, and of half the time a quarter."""
    monkeypatch.setattr(time_to_quality, "step_against_the_recipe", lambda _: (0.1, 0.2))
    started = []

    class Started:
        def __init__(self, command, env):
            started.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(time_to_quality.subprocess, "Popen", Started)
    flags = ["--images", "128000", "--share", "0.5", "--seeds", "3", "4"]
    threads = torch.get_num_threads()
    assert time_to_quality.main(flags) == 0
    torch.set_num_threads(threads)
    assert "250 steps" in capsys.readouterr().out
    assert [command[-4:] for command in started] == [
        ["--steps", "250", "--seeds", str(seed)] for seed in (3, 4)
    ]
