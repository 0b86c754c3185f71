"""The yardstick is straight: both sides compute the same, and what is counted is what is done."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import parity
import plain_reference as plain
import sides
import throughput
from discriminator import Discriminator
from engine.device import autocast
from generator import Generator
from training.cuda_graph import WARM_UP
from training.gan_losses import discriminator_loss

SCRIPT = Path(throughput.__file__)


def as_plain(model, plain_model):
    """Copy the weights, layer by layer; the affine maps of MapNorm are stored otherwise."""
    with torch.no_grad():
        for own, other in zip(model.parameters(), plain_model.parameters(), strict=True):
            other.copy_(own.permute(2, 0, 1) if own.dim() == 3 else own)
    return plain_model


@pytest.fixture
def networks():
    torch.manual_seed(0)
    networks = Discriminator(8), Generator(8)
    with torch.no_grad():
        for parameter in networks[0].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # affine maps that are no constants
    return networks


def test_plain_and_shipped_networks_are_the_same_function(networks, images):
    plain_d = as_plain(networks[0], plain.PlainDiscriminator(8))
    plain_g = as_plain(networks[1], plain.PlainGenerator(8))
    scores, logits = networks[0](images)
    plain_scores, plain_logits = plain_d(images)
    assert torch.allclose(scores, plain_scores.squeeze(1), atol=1e-5)
    assert torch.allclose(logits, plain_logits, atol=1e-5)
    latents = torch.randn(4, 100)
    assert torch.allclose(networks[1](latents), plain_g(latents), atol=1e-5)


class CountFlops(TorchDispatchMode):
    """FlopCounterMode without its module hooks, which torch.autograd.grad does not stand."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=result) if count else 0
        return result


def test_counted_work_is_what_the_steps_do():
    width = 64
    args = Namespace(width=width, batch_size=2, images=4, precision="fp32", compile="auto")
    args.cudnn_benchmark = False
    ours = sides.Ours(args, torch.device("cpu"))
    work_of = throughput.flops_per_image(width)
    for part in ("classifier_step", "gan_step", "evaluation", "max_features", "augmentation"):
        with CountFlops() as counter:
            images = getattr(ours, part)()
        done = counter.total / images
        # The first layer gives no gradient to images that want none.
        assert work_of[part] == pytest.approx(done, rel=0.06)
    at_196 = throughput.flops_per_image(196)
    assert at_196["classifier_step"] == pytest.approx(1.659e9, rel=1e-3)
    assert at_196["gan_step"] == pytest.approx(10.679e9, rel=1e-3)


def test_profile_finds_the_work():
    a = torch.randn(400, 400)
    shares = sides.profile(lambda: [a @ a for _ in range(20)])
    assert next(iter(shares)) == "aten::mm"
    assert 50 < shares["aten::mm"] <= 100


@pytest.mark.slow
def test_the_table(tmp_path):
    flags = ["--width", 4, "--batch_size", 4, "--images", 8, "--repeats", 1, "--device", "cpu"]
    command = [sys.executable, SCRIPT, *flags, "--json", tmp_path / "table.json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table) == {*sides.PARTS, "machine"}
    for part in sides.PARTS:
        row = table[part]
        assert row["ratio"] == row["ours_images_per_s"] / row["plain_images_per_s"]
        assert row["lowest_ratio"] <= row["ratio"] <= row["highest_ratio"]
        limit = table["machine"][row["limit"]]
        share = row["ours_images_per_s"] * row["flops_per_image"] / limit
        assert row["share_of_limit"] == pytest.approx(share)
        assert part in done.stdout
    assert table["machine"]["ours_peak_memory_bytes"] > 1e8


@pytest.mark.slow
def test_the_shipped_code_against_itself(tmp_path):
    flags = ["--width", 4, "--batch_size", 4, "--images", 600, "--repeats", 2, "--device", "cpu"]
    flags += ["--changes", "batch_256", "batch_512", "--json", tmp_path / "table.json"]
    done = subprocess.run([str(w) for w in (sys.executable, SCRIPT, *flags)], capture_output=True)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table) == {"as it is", "batch_256", "batch_512", "machine"}
    for name in ("batch_256", "batch_512"):  # at this width a step costs the same for 4 images
        assert all(row["ratio"] > 2 for row in table[name].values())


class SlowSide:
    """Answers like a Side; each is twice as slow as the one before it."""

    alive = 0

    def __init__(self, args, side, more=()):
        assert side == "ours"
        self.about = {"device": "none", "precision": "fp32"}
        self.seconds = 2**SlowSide.alive
        SlowSide.alive += 1

    def ask(self, part):
        return {"images": 8, "seconds": self.seconds}

    def close(self):
        SlowSide.alive -= 1


def test_changes_are_compared_with_what_is_shipped(monkeypatch, capsys):
    monkeypatch.setattr(throughput, "Side", SlowSide)
    assert throughput.main(["--device", "cpu", "--changes", "batch_256", "batch_512"]) == 0
    lines = [line.split()[-4:] for line in capsys.readouterr().out.splitlines()[3:]]
    rows = ("8.0 1.00 1.00, 1.00", "4.0 0.50 0.50, 0.50", "2.0 0.25 0.25, 0.25")
    assert lines == 2 * [row.split() for row in rows]
    assert SlowSide.alive == 0


@pytest.mark.gpu
@pytest.mark.parametrize("change", throughput.CHANGES)
def test_every_change_is_one_on_cuda(change, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    flags = ["ours", "--width", "20", "--images", "600", "--device", "cuda"]
    args = sides.parse_args([*flags, *throughput.CHANGES[change]])
    ours = sides.Ours(args, torch.device("cuda"))
    for _ in range(WARM_UP + 2):
        images = ours.classifier_step(), ours.gan_step()
    assert "note:" not in capsys.readouterr().err
    assert images == (args.batch_size,) * 2
    assert args.batch_size == int(change[6:] if change.startswith("batch") else 128)
    for update in (ours.update_classifier, ours.update_d, ours.update_g):
        assert (update.graph is None) == (change == "compile_off")
    for block in ours.discriminator.blocks:
        assert block[1].compiled == (change != "compile_off")
    assert torch.backends.cudnn.benchmark == (change == "cudnn_benchmark")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--width", 0], "--width"),
        (["--json", "nowhere/table.json"], "cannot write there"),
        (["--json", "."], "cannot write there"),
        (["--batch_size", 16, "--images", 8], "larger than the set"),
        (["--device", "tpu"], "--device"),
        (["--changes", "all"], "--changes"),
        (["--changes", "compile_off", "--device", "cpu"], "--changes compile_off: without effect"),
        (["--changes", "compile_off", "--profile"], "not allowed with"),
    ],
)
def test_bad_input(refused, flags, message):
    assert message in refused(throughput, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "tpu"], "--device"),
        (["--batch_size", 16, "--limit_train", 8, "--dataset", "shapes"], "larger than the set"),
        (["--epochs", 51], "--epochs"),
    ],
)
def test_bad_input_of_parity(refused, flags, message):
    assert message in refused(parity, "gan", *flags)


def test_last_third():
    log = [dict.fromkeys(parity.METRICS, float(step)) for step in range(10)]
    assert parity.last_third(log) == dict.fromkeys(parity.METRICS, 8.0)


@pytest.mark.parametrize("what", ["classifier", "gan"])
def test_parity_prints_both_sides(run_main, what):
    flags = ["--dataset", "shapes", "--limit_train", 16, "--limit_test", 8, "--width", 2]
    flags += ["--batch_size", 8, "--epochs", 1, "--steps", 3, "--seeds", 2, "--device", "cpu"]
    code, out, _ = run_main(parity, what, *flags)
    assert code == 0
    figures = ["test_accuracy"] if what == "classifier" else parity.METRICS
    for name in figures:
        (line,) = (row for row in out.splitlines() if row.startswith(f"{name} "))
        assert line.count("+-") == 2


def test_memory_of_a_gan_step_at_full_size_fits_in_8_gb():
    """By count: what autograd keeps for the largest pass, in bfloat16, as if on a GPU.

    Beside it: weights, gradients, two moments and an average in float32; the two data sets; eight
    of the largest feature maps, for what is alive between two operations.
    """
    batch, counted = 128, 2
    networks = Discriminator(196), Generator(196)
    saved = {}

    def keep(tensor):
        if tensor.dim() and len(tensor) in (counted, 2 * counted):  # not a weight
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    real, labels = torch.rand(counted, 3, 32, 32), torch.arange(counted)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        autocast(real.device, "bf16"),
    ):
        discriminator_loss(
            networks[0], real, labels, real.flip(0), labels, alpha=torch.rand(counted, 1, 1, 1)
        )
    weights = 4 * sum(p.numel() for n in networks for p in n.parameters())
    activations = sum(saved.values()) * batch / counted
    largest_map = 4 * 2 * batch * 196 * 32 * 32
    total = activations + 5 * weights + 60_000 * 3 * 32 * 32 + 8 * largest_map
    print(f"activations {activations / 1e9:.2f} GB, total {total / 1e9:.2f} GB")
    assert 1e9 < total < 8e9
