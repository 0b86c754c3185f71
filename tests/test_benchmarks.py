"""The benchmarks: speed, CPU time until an accuracy, and the numbers of benchmarks/recipes.md."""

import json
import os
import re
import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import throughput
import time_to_quality
import train_gan
from inside_cnn.reporting.tables import read_lines
from processes import ROOT, write_command


class CountFlops(TorchDispatchMode):
    """FlopCounterMode without its module hooks, which torch.autograd.grad does not support."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=result) if count else 0
        return result


def test_counted_flops_are_those_of_the_steps():
    args = Namespace(width=64, batch_size=2, images=4, device="cpu", precision="fp32")
    calls = throughput.shipped(args, torch.device("cpu"))
    for part, (images, flops, _) in throughput.parts(args).items():
        with CountFlops() as counter:
            calls[part]()
        # The first layer computes no gradient for images that need none.
        assert flops == pytest.approx(counter.total / images, rel=0.06)
    at_196 = throughput.parts(Namespace(width=196, batch_size=2, images=4))
    assert at_196["classifier_step"][1] == pytest.approx(1.659e9, rel=1e-3)
    assert at_196["gan_step"][1] == pytest.approx(10.679e9, rel=1e-3)


@pytest.mark.slow
def test_table(succeed, tmp_path):
    flags = ["--width", 4, "--batch_size", 4, "--images", 8, "--repeats", 1, "--device", "cpu"]
    out = succeed(throughput, *flags, "--json", tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    machine = table.pop("machine")
    assert list(table) == list(throughput.parts(Namespace(width=4, batch_size=4, images=8)))
    for part, row in table.items():
        assert row["ratio"] == row["ours_images_per_s"] / row["plain_images_per_s"]
        assert row["lowest_ratio"] <= row["ratio"] <= row["highest_ratio"]
        share = row["ours_images_per_s"] * row["flops_per_image"] / machine[row["limit"]]
        assert row["share_of_limit"] == pytest.approx(share)
        assert part in out
    assert machine["ours_peak_memory_bytes"] > 1e8


@pytest.mark.gpu
@pytest.mark.parametrize("side", [throughput.shipped, throughput.plain_side])
def test_both_sides_run_on_cuda(side):
    args = Namespace(width=20, batch_size=4, images=8, device="cuda", precision="bf16")
    calls = side(args, torch.device("cuda"))
    for part in 8 * list(throughput.parts(args)):  # a step is captured after its warm-up
        calls[part]()


def test_a_batch_larger_than_the_set_is_refused(refused):
    message = refused(throughput, "--batch_size", 16, "--images", 8)
    assert "larger than the set" in message


FAKE_PYTHON = """#!/usr/bin/env bash
[ "$1" = - ] && exec {python} "$@"
echo "$@" >> {folder}/calls
[ "$1" = -m ] && exit 1
all="$*"; folder="${{all#*--output_dir }}"; folder="${{folder%% *}}"
mkdir -p "$folder/checkpoints"; cp {folder}/*.json* "$folder"
"""


def test_gpu_run_trains_as_long_as_time_is_left(tmp_path):
    script = FAKE_PYTHON.format(python=sys.executable, folder=tmp_path)
    write_command(tmp_path / "python", script)
    (tmp_path / "config.json").write_text('{"settings": {"batch_size": 64}}')
    # 1,000 images an epoch at 1,000 images/s: one second.
    record = {"step": 125, "epochs_done": 8.0, "images_per_second": 1000.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    environment = os.environ | {"PYTHON": tmp_path / "python", "MINUTES": "5", "FLAGS": "--width 8"}
    command = [ROOT / "benchmarks/gpu_run.sh", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the tests on the GPU ended with code 1" in done.stdout
    tests, _, training = (tmp_path / "calls").read_text().splitlines()
    assert "-m gpu" in tests
    args = train_gan.parse_args(training.split()[1:])
    assert 0.85 * 285 <= args.epochs <= 0.85 * 300
    assert (args.width, args.gen_train, args.batch_size) == (8, 2, 64)
    assert 4.5 <= args.max_minutes <= 5
    assert not (tmp_path / "out/gan/checkpoints").exists()


def formatted_figures():
    """Every figure of results/trials and of the published log, and every mean over seeds."""
    alone, over_seeds = [], {}
    for path in [*ROOT.glob("results/trials/*.jsonl"), ROOT / "results/gan/metrics.jsonl"]:
        for record in read_lines(path):
            names = ("flags", "variant", "change", "share", "epoch", "step")
            key = path, *(record.get(name) for name in names)
            over_seeds.setdefault(key, []).append(record)
            alone.append([record])
    formats = {"test_accuracy": ".2f", "frechet_distance": ".0f", "class_consistency": ".1f"}
    formats["class_accuracy_real"] = ".1f"
    figures = set()
    for group in [*alone, *over_seeds.values()]:
        means = [
            format(statistics.mean(record[name] for record in group), how)
            for name, how in formats.items()
            if all(name in record for record in group)
        ]
        figures |= {*means, " / ".join(means[:3])}
    return figures


def test_the_figures_of_the_recipes_are_those_of_the_trials():
    page = (ROOT / "benchmarks/recipes.md").read_text()
    page = re.sub(r"<!-- table.*?end of table -->", "", page, flags=re.DOTALL)
    cells = re.findall(r"^\|[^|]+\| ([\d./;, ]+) \|", page, re.MULTILINE)
    figures = [figure for cell in cells for figure in re.split("[;,] ", cell)]
    assert len(figures) > 70
    assert set(figures) <= formatted_figures()


def test_the_figures_of_time_to_quality_are_measured():
    page = (ROOT / "benchmarks/README.md").read_text()
    rows = re.findall(
        r"^\| (critic|classifier) \|.*\| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE
    )
    names = {"classifier": "classifier", "gan": "critic"}
    measured = {
        (names[x["network"]], f"{x['cpu_seconds'] / 60:.1f}", f"{x['test_accuracy']:.2f}")
        for x in read_lines(ROOT / "results/speed/time_to_quality.jsonl")
    }
    assert len(rows) == 4
    assert set(rows) <= measured


# ------------------------------------------------------------------------------ quality and time

SHAPES = ["--dataset=shapes", "--width=4", "--hold_out=40", "--limit_train=64"]
SHAPES += ["--output=points.jsonl"]


@pytest.mark.parametrize("network", ["classifier", "gan"])
def test_plain_training_ends_at_the_accuracy_or_after_the_time(monkeypatch, network):
    """A step takes one second here, an evaluation a thousand, which do not count."""
    now, accuracies = [0.0], iter([20, 50, 61, 70])

    def step(*args):
        now[0] += 1

    def accuracy(model, batches):
        now[0] += 1000
        assert len(batches.dataset) == 40
        return next(accuracies)

    monkeypatch.setattr(time_to_quality, "BATCH_SIZE", 32)
    monkeypatch.setattr(time_to_quality, "EVALUATE_EVERY", 64)
    assert time_to_quality.main([network, "--plain", "--max_minutes", "0", *SHAPES]) == 0
    (line,) = read_lines(Path("points.jsonl"))
    assert line["images"] == 64
    assert line["cpu_seconds"] > 0
    assert 0 <= line["test_accuracy"] <= 100

    monkeypatch.setattr(time_to_quality.time, "process_time", lambda: now[0])
    monkeypatch.setattr(time_to_quality.plain, f"{network}_step", step)
    monkeypatch.setattr(time_to_quality.plain, "accuracy", accuracy)
    assert time_to_quality.main([network, "--plain", *SHAPES]) == 0
    lines = read_lines(Path("points.jsonl"))[1:]
    assert [line["test_accuracy"] for line in lines] == [20, 50, 61]
    assert [line["images"] for line in lines] == [64, 128, 192]
    assert [line["cpu_seconds"] for line in lines] == [2, 4, 6]
    assert Path("points.png").read_bytes().startswith(b"\x89PNG")


def test_time_of_a_script():
    flags = ["classifier", "--flags=--epochs 1 --batch_size 16 --precision fp32", "--seed", "3"]
    Path("points.jsonl").write_text('{"step": 1}\n')  # of another program, not plotted
    assert time_to_quality.main([*flags, *SHAPES]) == 0
    _, line = read_lines(Path("points.jsonl"))
    assert (line["side"], line["seed"], line["images"]) == ("ours", 3, 64)
    assert 1 < line["cpu_seconds"] < 100
    assert 0 <= line["test_accuracy"] <= 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flags", "it's"], "--flags"),
        (["--plain", "--data_dir", "nowhere"], "nowhere"),
        (["--flags=--gen_train 0"], "train_gan.py ended with code 2"),
        (["--plain", "--flags=--gen_train 2"], "no effect with --plain"),
        (["--plain", "--dataset=shapes", "--limit_train=100"], "at least 128 training images"),
        (["--output", "."], "cannot use ."),
    ],
)
def test_bad_input(refused, flags, message):
    assert message in refused(time_to_quality, "gan", "--output", "points.jsonl", *flags)
