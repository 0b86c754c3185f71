import argparse
import os
import sys

import pytest
import torch

import train_discriminator
import train_gan
import visualization
from inside_cnn.core.errors import UserError
from inside_cnn.engine import cli


@pytest.mark.parametrize("text", ["0", "2.5", "many", "", "nan", "inf"])
def test_ranges_of_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.at_least(1)(text)
    assert cli.at_least(1)("1") == 1
    assert cli.at_least(0, float, high=1)("1e-4") == 1e-4
    with pytest.raises(argparse.ArgumentTypeError, match="below 1"):
        cli.at_least(0, float, high=1)("1")


def test_recipe_sets_the_flags_that_were_not_given():
    args = train_gan.parse_args(["--recipe", "classic", "--width", "64"])
    assert (args.width, args.batch_size, args.lr) == (64, 128, 1e-4)
    assert (args.gen_train, args.gp_weight, args.epochs) == (1, 10.0, 200)
    assert (args.augmentation, args.schedule, args.d_optimizer) == ("crop", "constant", "adam")
    assert (args.g_optimizer, args.d_fake_class_weight, args.g_class_weight) == ("adam", 1.0, 1.0)
    args = train_gan.parse_args(["--muon_lr", "0.01"])
    assert (args.recipe, args.batch_size, args.augmentation) == ("muon", 128, "shift")
    assert (args.schedule, args.muon_lr, args.lr) == ("linear", 0.01, 5e-4)
    args = train_discriminator.parse_args(["--recipe", "classic", "--lr_drop_epochs"])
    assert (args.epochs, args.lr_drop_epochs) == (100, [])


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (train_discriminator, "--recipe classic --muon_lr 0.1", "--optimizer muon"),
        (train_discriminator, "--optimizer adam --weight_decay 0.1", "--optimizer muon"),
        (train_discriminator, "--lr_drop_epochs 3", "--schedule drops"),
        (train_discriminator, "--muon_lr 0", "--muon_lr above 0"),
        (train_gan, "--recipe classic --momentum 0.5", "muon"),
        (train_gan, "--recipe classic --g_optimizer muon", "--muon_lr above 0"),
        (train_gan, "--judge results/baseline", "--evaluate_every"),
        (train_gan, "--critic trained", "--fixed_generator"),
        (train_gan, "--fixed_generator x", "--fixed_generator"),
        (train_gan, "--critic none --evaluate_every 1", "--evaluate_every"),
        (train_gan, "--critic none --gp_weight 1", "--gp_weight"),
        (train_gan, "--critic penalty --d_fake_class_weight 1", "--d_fake_class_weight"),
        (train_gan, "--critic frozen --ema_decay 0", "--ema_decay"),
        (train_gan, "--critic none --d_optimizer adam --muon_lr 0.01", "--muon_lr"),
    ],
)
def test_flags_without_effect_are_refused(refused, script, flags, message):
    assert message in refused(script, *flags.split())


@pytest.mark.parametrize("script", [train_discriminator, train_gan, visualization])
def test_help_shows_no_default_of_none(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.parse_args(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "(default: auto)" in out
    assert "None" not in out


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (train_discriminator, ["--dataset", "mnist"]),
        (train_discriminator, ["--width", "0"]),
        (train_discriminator, ["--width", "4097"]),
        (train_gan, ["--latent_dim", "4097"]),
        (train_discriminator, ["--precision", "fp16"]),
        (train_discriminator, ["--seed", str(2**63)]),
        (train_discriminator, ["--no_such_flag"]),
        (train_gan, ["--batch_size", "1"]),
        (train_gan, ["--ema_decay", "1"]),
        (train_gan, ["--gp_weight", "nan"]),
        (visualization, ["--max_features", "9"]),
        (visualization, ["--max_features", "4", "True"]),
        (visualization, ["--epsilon", "-1"]),
        (visualization, ["--epsilon", "0.03"]),
        (visualization, ["--perturb_images", "maybe"]),
    ],
)
def test_invalid_values_are_reported_in_one_line(refused, script, flags):
    assert flags[0] in refused(script, *flags)


def test_a_tilde_is_the_home_folder(monkeypatch):
    """The shell does not expand it in --output_dir=~/runs."""
    monkeypatch.setenv("HOME", "/home/me")
    args = train_gan.parse_args(["--output_dir=~/runs", "--data_dir", "a~b"])
    assert (args.output_dir, args.data_dir) == ("/home/me/runs", "a~b")
    args = visualization.parse_args(["--control", "~/a", "b"])
    assert args.control == ["/home/me/a", "b"]


def test_no_docstring_no_description():
    """python -OO."""
    assert "usage" in cli.Parser(None).format_help()


def raises(error):
    def run(_):
        raise error

    return run


def out_of_memory(chip):
    return f"error: out of memory on the {chip}; use a smaller --batch_size\n"


DENIED = PermissionError(13, "Permission denied", "mine/a/1.png")


@pytest.mark.parametrize(
    ("run", "code", "out", "err"),
    [
        (lambda _: None, 0, "", ""),
        (raises(KeyboardInterrupt), 130, "", "interrupted\n"),
        (raises(cli.Stopped(143, "stopped; saved")), 143, "stopped; saved\n", ""),
        (raises(UserError("no such device")), 2, "", "error: no such device\n"),
        (raises(torch.OutOfMemoryError("CUDA out of memory")), 2, "", out_of_memory("GPU")),
        (raises(RuntimeError("CUDA error: out of memory")), 2, "", out_of_memory("GPU")),
        (lambda _: torch.empty(2**60), 2, "", out_of_memory("CPU")),
        (raises(DENIED), 2, "", "error: cannot use mine/a/1.png: Permission denied\n"),
    ],
)
def test_exit_codes(capsys, run, code, out, err):
    for data_dir in ("mine", ["other", "mine"]):
        args = argparse.Namespace(data_dir=data_dir, batch_size=3)
        assert cli.exit_code_of(run, args) == code
        assert tuple(capsys.readouterr()) == (out, err)


def test_unreadable_default_data_is_one_line(capsys):
    path = os.path.join(cli.DEFAULT_DATA_DIR, "data_batch_1")
    run = raises(PermissionError(13, "Permission denied", path))
    assert cli.exit_code_of(run, argparse.Namespace(data_dir=None)) == 2
    assert capsys.readouterr().err == f"error: cannot use {path}: Permission denied\n"


def test_closed_streams_are_no_error(monkeypatch):
    """`python train_gan.py >&-`: Python sets sys.stdout to None."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.exit_code_of(lambda _: print("text", flush=True), argparse.Namespace()) == 0
    assert cli.exit_code_of(raises(UserError("no")), argparse.Namespace()) == 2


def test_windows_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.exit_code_of(raises(KeyError("not called")), argparse.Namespace()) == 2
    assert capsys.readouterr().err == "error: on Windows, run this in WSL\n"


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a bug"),
        RuntimeError("a bug"),
        OSError(28, "No space left"),
        FileNotFoundError(2, "", "mine2/a"),
    ],
)
def test_other_exceptions_are_raised(error):
    with pytest.raises(type(error)):
        cli.exit_code_of(raises(error), argparse.Namespace(data_dir="mine", inception=""))
