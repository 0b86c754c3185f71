import json
from argparse import Namespace
from functools import partial

import pytest
import torch
from PIL import Image

import train_gan
from compare import assert_equal, assert_same_run, records
from discriminator import Discriminator
from generator import Generator, sample_latents
from inside_cnn.core.errors import UserError
from inside_cnn.engine.weights import digest, export_model, load_model
from inside_cnn.training import checkpoint, panels
from inside_cnn.training.distributed import Ranks
from inside_cnn.training.run import TrainingRun
from processes import SMALL
from steps import at_pass, outputs_of

# ------------------------------------------------------------------------------ updates


def gan_and_updates(images, more=""):
    """A GAN and its updates of the discriminator and of the generator, whose inputs are the same
    each time, like the initial weights.
    """
    flags = "--recipe classic --lr 1e-3 --device cpu --precision fp32 --width 4 --batch_size 8 "
    args = train_gan.parse_args((flags + more).split())
    run = TrainingRun(args, "train_gan.py", panels.GAN)
    gan, step, real = train_gan.GAN(run, args), torch.tensor(2), (images, torch.arange(8))
    stream = torch.Generator().manual_seed(0)
    inputs = train_gan.sample_fake_inputs(run, args, 10, stream, penalty=True)
    update_discriminator = partial(gan.update_discriminator, step, real, inputs)
    return gan, update_discriminator, partial(gan.update_generator, step, real, inputs)


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def test_each_update_changes_only_its_network(images):
    gan, update_discriminator, update_generator = gan_and_updates(images)
    discriminator, generator = gan.discriminator, gan.generator
    d_before, g_before = parameters(discriminator), parameters(generator)
    update_discriminator()
    assert_equal(g_before, parameters(generator))
    # The critic head's bias cancels in D(real) - D(fake).
    pairs = zip(discriminator.named_parameters(), d_before, strict=True)
    equal = {name for (name, p), before in pairs if torch.equal(p, before)}
    assert equal <= {"critic_head.bias"}
    assert all(p.grad is None for p in generator.parameters())

    d_before = parameters(discriminator)
    d_gradients = [p.grad.clone() for p in discriminator.parameters()]
    update_generator()
    assert_equal(d_before, parameters(discriminator))
    assert_equal(d_gradients, [p.grad for p in discriminator.parameters()])
    pairs = zip(g_before, generator.parameters(), strict=True)
    assert not any(torch.equal(before, p) for before, p in pairs)
    assert all(p.requires_grad for p in discriminator.parameters())


def test_flags_weight_the_losses(images):
    flags = "--d_fake_class_weight 0.25 --g_class_weight 0.5 --gp_weight 2"
    gans = gan_and_updates(images), gan_and_updates(images, flags)
    parts, weighted = (update_discriminator() for _, update_discriminator, _ in gans)
    less = 0.75 * parts["class_loss_fake"] + 8 * parts["gradient_penalty"]
    expected = parts["discriminator_loss"] - less
    assert weighted["discriminator_loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    gans = gan_and_updates(images), gan_and_updates(images, flags)
    parts, weighted = (update_generator() for _, _, update_generator in gans)
    expected = parts["generator_loss"] - 0.5 * parts["generator_class_loss"]
    assert weighted["generator_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_both_updates_have_the_relativistic_loss(images):
    flags = "--adversarial_loss relativistic --gp_weight 2 --g_class_weight 0"
    flags += " --d_fake_class_weight 0"
    gan, update_discriminator, update_generator = gan_and_updates(images, flags)
    inputs = update_discriminator.args[2]
    with torch.no_grad():
        difference = gan.discriminator(images)[0] - gan.discriminator(gan.fakes(inputs))[0]
    losses = torch.log1p(difference.exp()).mean(), torch.log1p((-difference).exp()).mean()
    assert update_generator()["generator_loss"].item() == pytest.approx(losses[0].item(), rel=1e-4)

    gan, update_discriminator, _ = gan_and_updates(images, flags)
    parts = update_discriminator()
    assert parts["gradient_penalty"] >= parts["gradient_norm"].square()  # around 0, not 1
    rest = parts["class_loss_real"] + 2 * parts["gradient_penalty"]
    expected = (losses[1] + rest).item()
    assert parts["discriminator_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_relativistic_loss_with_the_penalty_weight_of_wgan_gp_is_refused(refused):
    assert "about 0.1, not 10" in refused(train_gan, "--adversarial_loss", "relativistic")


def test_average_counts_the_steps_of_the_generator(images):
    """Its first update comes at the discriminator's second step. There d is 1/10."""
    gan, _, update_generator = gan_and_updates(images, "--gen_train 2 --ema_decay 0.5")
    before = parameters(gan.generator)
    update_generator()
    pairs = zip(before, parameters(gan.generator), strict=True)
    expected = [0.1 * a + 0.9 * b for a, b in pairs]
    torch.testing.assert_close(parameters(gan.ema.model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shrink", "pairs"), [(1, 8), (2, 4), (4, 2)])
def test_random_inputs_do_not_depend_on_the_number_of_processes(shrink, pairs):
    args = train_gan.parse_args(["--batch_size", "8", "--gp_batch_shrink", str(shrink)])

    def inputs(world, rank):
        ranks = Ranks()
        ranks.world, ranks.rank = world, rank
        run = Namespace(ranks=ranks, shard=ranks.shard, device=torch.device("cpu"))
        stream = torch.Generator().manual_seed(0)
        return train_gan.sample_fake_inputs(run, args, 10, stream, penalty=True)

    alone, ranks = inputs(1, 0), [inputs(2, 0), inputs(2, 1)]
    assert len(alone.alpha) == pairs
    for field in (lambda x: x.z, lambda x: x.labels, lambda x: x.shifts.down, lambda x: x.alpha):
        for rank, shard in enumerate(ranks):
            assert torch.equal(field(shard), field(alone)[rank::2])


def test_pairs_that_processes_cannot_share_are_refused():
    args = train_gan.parse_args(["--batch_size", "8", "--gp_batch_shrink", "3"])
    dataset = Namespace(class_names=range(10))
    for world in (1, 3):
        train_gan.check_sizes(args, dataset, world)
    with pytest.raises(UserError, match="2 processes cannot share the 3 pairs"):
        train_gan.check_sizes(args, dataset, 2)


# ------------------------------------------------------------------------------ the script


@pytest.fixture
def train(succeed, tmp_path):
    """train(*flags, folder="run") -> the folder of a small run."""

    def call(*flags, folder="run"):
        succeed(train_gan, *SMALL, "--output_dir", tmp_path / folder, *flags)
        return tmp_path / folder

    return call


def test_files_of_a_run(train, succeed, matplotlib_plots):
    folder = train("--epochs", 2)
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "metrics.jsonl", "summary.json", "curves.png", "checkpoints", "samples"),
        *("discriminator.safetensors", "generator.safetensors", "generator_raw.safetensors"),
        ".lock",
    }
    grids = {path.name for path in (folder / "samples").iterdir()}
    assert grids == {"000.png", "001.png", "002.png"}
    with Image.open(folder / "samples/002.png") as grid:
        assert grid.width == 10 * 100 + 4  # each pixel is 3x3, with gaps of 4
    lines = records(folder)
    assert [line["step"] for line in lines] == [5, 10]
    logged = {
        *("critic_gap", "gradient_penalty", "gradient_norm", "class_loss_real", "class_loss_fake"),
        *("class_accuracy_real", "class_accuracy_fake", "generator_loss", "test_accuracy"),
        *("discriminator_loss", "generator_class_loss", "test_loss", "step", "epochs_done", "lr"),
    }
    assert lines[0].keys() - {"muon_lr"} == logged
    average, metadata = load_model(folder / "generator.safetensors", kind="generator")
    raw, raw_metadata = load_model(folder / "generator_raw.safetensors")
    assert metadata["weights"] == "EMA 0.999"
    assert raw_metadata["weights"] == "raw"
    assert metadata["class_names"][4] == "star"
    latents = sample_latents(torch.arange(10))
    assert not torch.equal(average(latents), raw(latents))
    assert json.loads((folder / "summary.json").read_text())["step"] == 10
    flags = [*SMALL, "--epochs", 2, "--output_dir", folder]
    assert "finished already" in succeed(train_gan, *flags)


def test_gen_train_without_average(train):
    flags = ["--max_steps", 4, "--ema_decay", 0, "--gen_train", 2, "--log_every_steps", 1]
    with at_pass(Generator, {3: lambda: pytest.fail("a third generator step")}):
        folder = train(*flags)
    lines = records(folder)
    assert ["generator_loss" in line for line in lines] == [False, True, False, True]
    assert ["test_accuracy" in line for line in lines] == [False, False, False, True]
    assert all("discriminator_loss" in line for line in lines)
    assert not (folder / "generator_raw.safetensors").exists()
    assert load_model(folder / "generator.safetensors")[1]["weights"] == "raw"


# ------------------------------------------------------------------------------ --critic


def parts_of(folder):
    """Networks and optimizers in the newest checkpoint of a run."""
    return checkpoint.load_latest(folder / "checkpoints")["parts"]


def untrained():
    """Both networks as a small run creates them."""
    torch.manual_seed(0)
    return Discriminator(4), Generator(4)


@pytest.mark.parametrize("critic", ["none", "penalty"])
def test_controls_without_fakes(train, critic):
    """The penalty trains the critic head, too."""
    with outputs_of(Generator) as fakes:
        folder = train("--critic", critic, "--max_steps", 2)
    assert not fakes
    first, trained = untrained()[0], load_model(folder / "discriminator.safetensors")[0]
    unchanged = torch.equal(first.critic_head.weight, trained.critic_head.weight)
    assert unchanged == (critic == "none")
    assert not torch.equal(first.class_head.weight, trained.class_head.weight)
    files = {path.name for path in folder.iterdir()}
    assert not {"samples", "generator.safetensors", "generator_raw.safetensors"} & files


def test_a_frozen_generator_stays_untrained(train):
    with at_pass(Generator, {1: lambda: pytest.fail("the generator learns")}):
        folder = train("--critic", "frozen", "--max_steps", 2)
    saved = parts_of(folder)["generator"]
    for name, weight in untrained()[1].named_parameters():
        assert torch.equal(weight, saved[name])
    assert not (folder / "generator.safetensors").exists()
    assert load_model(folder / "discriminator.safetensors")[1]["critic"] == "frozen"


@pytest.fixture
def fixed_generator(tmp_path):
    """Exported weights, with running averages of BatchNorm."""
    generator, path = Generator(4), tmp_path / "generator.safetensors"
    generator(torch.randn(8, 100))
    export_model(generator, path, {"dataset": "shapes"})
    return path


def test_a_fixed_generator_is_the_exported_one_and_resume_is_exact(train, fixed_generator):
    flags = ["--epochs", 2, "--critic", "trained", "--fixed_generator", fixed_generator]
    whole = train(*flags, "--max_steps", 7, folder="whole")
    exported, _ = load_model(fixed_generator)
    assert_equal(exported.state_dict(), parts_of(whole)["generator"])
    metadata = load_model(whole / "discriminator.safetensors")[1]
    assert metadata["fixed_generator_sha256"] == digest(exported)
    train(*flags, "--max_steps", 5)
    assert_same_run(whole, train(*flags, "--max_steps", 7))


def test_unsuitable_fixed_generator_is_refused(fixed_generator, refused, tmp_path):
    flags = [*SMALL, "--output_dir", tmp_path / "run", "--critic", "trained", "--fixed_generator"]
    assert "no weights" in refused(train_gan, *flags, "absent")
    for flag, value, message in (
        ("--latent_dim", 50, "takes 100"),
        ("--hold_out", 100, "trained with --hold_out 0, not 100"),
    ):
        assert message in refused(train_gan, *flags, fixed_generator, flag, value)
