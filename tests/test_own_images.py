"""The user's own images in every script: other numbers of classes, and what does not fit."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import data_tools
import evaluate_gan
import explore
import report
import train_discriminator
import train_gan
import visualization
from discriminator import Discriminator
from generator import Generator
from inside_cnn.data import cifar10
from inside_cnn.data.folder import load_folder
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.explorer.session import load_session
from inside_cnn.interpretability.network import TRAININGS
from inside_cnn.training import run
from own_images import SEVEN, write_pictures, write_set, write_seven_classes

MACHINE = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """make(number of classes): flags that take a folder of so many; the folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("inside_cnn.metrics.scores.KERNEL_SUBSETS", 2)

    def make(classes):
        folder = tmp_path / "mine"
        if classes == len(SEVEN):
            write_seven_classes(folder)
        else:
            of_each = 25 if classes < 10 else 6
            names = [f"class {k}" for k in range(classes)]
            for part in ("train", "test"):
                count = of_each * classes
                rng = torch.Generator().manual_seed(len(part))
                images = torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
                write_pictures(folder / part, images, torch.arange(count) % classes, names)
        return ["--dataset", "folder", "--data_dir", folder]

    return make


SLOW = pytest.mark.slow


@pytest.mark.parametrize("classes", [2, pytest.param(7, marks=SLOW), pytest.param(64, marks=SLOW)])
def test_every_script(mine, run_main, classes):
    set_flags = mine(classes)

    def call(module, *flags):
        code, out, err = run_main(module, *flags)
        assert code == 0, err
        return out

    assert f"of {classes} classes in" in call(data_tools, *set_flags)
    few = [*MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 24]
    call(train_discriminator, *set_flags, *few)
    call(train_gan, *set_flags, *few, "--evaluate_every", 1)
    _, test = load_folder(set_flags[-1])
    names = list(test.class_names)
    assert len(names) == classes
    for file, kind in (
        ("baseline/discriminator", "discriminator"),
        ("gan/discriminator", "discriminator"),
        ("gan/generator", "generator"),
        ("gan/generator_best", "generator"),
    ):
        network, about = load_model(f"output/{file}.safetensors", kind=kind)
        assert (about["class_names"], about["num_classes"]) == (names, classes)
        assert about["dataset"] == "folder"
    assert network.latent_dim == 100

    call(visualization, *set_flags, *MACHINE, "--steps", 2)
    summary = json.loads(Path("visualization/summary.json").read_text())
    for metrics in summary.values():
        assert list(metrics["max_classification_output"]) == names
        assert metrics.keys() >= {"perturbation", "strength_study", "max_features", "layers"}
    assert sum(summary["with G"]["attribution"]["named"].count(n) for n in names) == min(
        classes, 10
    )

    out = call(evaluate_gan, *set_flags, *MACHINE, "--samples", 384)
    assert "are few: compare" in out
    scored = json.loads(Path("evaluation/evaluation.json").read_text())
    assert scored["scores"]["samples"]["images"] == min(384, len(test))
    assert list(scored["scores"]["test images"]["per_class_consistency"]) == names
    call(
        evaluate_gan, *MACHINE, "--sample", 2 * classes, "--format", "png", "--output_dir", "drawn"
    )
    call(report)
    assert "class consistency" in Path("report.html").read_text()

    nothing = dict.fromkeys([*TRAININGS, "generator"])
    session = load_session(nothing, torch.device("cpu"), set_flags[-1])
    assert session.class_names == names
    assert len(session.images) == len(test)
    (said, *_) = session.judge(test.images[:2].float()).values()
    assert said[1].shape == (2, classes)


def test_a_folder_trains_as_the_same_images_do_as_tensors(mine, run_main, tmp_path, monkeypatch):
    """To the last digit of every figure of a short training."""
    train, test = (part.first(300) for part in data_tools.load_shapes())
    names = sorted(train.class_names)
    write_set(tmp_path / "mine", train, test, train.class_names)
    few = [*MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 50]

    def log(name, *flags):
        folder = tmp_path / name
        assert run_main(train_discriminator, *few, *flags, "--output_dir", folder)[0] == 0
        record = json.loads((folder / "metrics.jsonl").read_text())
        del record["images_per_second"], record["peak_memory_gb"]
        return record

    of_files = log("files", "--dataset", "folder", "--data_dir", tmp_path / "mine")
    in_order = []
    for part, read in zip((train, test), load_folder(tmp_path / "mine"), strict=True):
        # Where each image of the folder is among the tensors: no two are alike.
        places = {image.numpy().tobytes(): k for k, image in enumerate(part.images)}
        order = torch.tensor([places[image.numpy().tobytes()] for image in read.images])
        labels = torch.tensor([names.index(part.class_names[k]) for k in part.labels])
        in_order.append(
            replace(part, images=part.images[order], labels=labels[order], class_names=tuple(names))
        )
    assert sorted(order.tolist()) == list(range(300))
    monkeypatch.setattr(run, "load_dataset", lambda *_: in_order)
    assert log("tensors", "--dataset", "shapes") == of_files


@pytest.mark.slow
@pytest.mark.cifar10
def test_cifar10_as_files(cifar10_dir, tmp_path, monkeypatch):
    """The same images bit for bit, decoded in 90 s on two cores; then there in 3 s."""
    monkeypatch.chdir(tmp_path)
    original = data_tools.load_dataset("cifar10", cifar10_dir)
    write_set(tmp_path / "mine", *original, original[0].class_names)

    def timed():
        start = time.monotonic()
        return data_tools.load_dataset("folder", tmp_path / "mine"), time.monotonic() - start

    first, decoding = timed()
    second, again = timed()
    assert decoding < 90
    assert again < 3
    for parts in (first, second):
        for ours, theirs in zip(parts, original, strict=True):
            assert ours.class_names == theirs.class_names
            assert contents(ours) == contents(theirs)


@pytest.mark.parametrize("script", [train_discriminator, train_gan])
def test_a_bare_training_without_data_is_refused(refused, tmp_path, monkeypatch, script):
    """It does not train on the shapes instead."""
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/none")
    small = ["--width", 4, "--max_steps", 1, "--device", "cpu", "--output_dir", tmp_path / "run"]
    message = refused(script, "--data_dir", tmp_path / "data", *small)
    assert "give --data_dir, or take --dataset shapes" in message
    assert not (tmp_path / "run").exists()


def contents(dataset):
    rows = zip(dataset.images, dataset.labels.tolist(), strict=True)
    return sorted((image.numpy().tobytes(), label) for image, label in rows)


# ------------------------------------------------------------------------------ runs


def test_a_run_knows_its_images_again(mine, run_main, refused, tmp_path):
    flags = [*mine(2), *MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 24]
    assert run_main(train_discriminator, *flags)[0] == 0
    moved = tmp_path / "elsewhere"
    (tmp_path / "mine").rename(moved)
    flags[3] = moved
    assert "finished already" in run_main(train_discriminator, *flags)[1]
    (moved / "train/class 0/000000.png").unlink()
    assert "data_sha256 was" in refused(train_discriminator, *flags)


def test_classes_of_uneven_sizes_are_reported(mine, run_main, tmp_path):
    flags = [*mine(2), *MACHINE, "--width", 4, "--max_steps", 1, "--batch_size", 20]
    for number in range(2, 40, 2):
        (tmp_path / f"mine/train/class 0/{number:06d}.png").unlink()
    code, out, _ = run_main(train_gan, *flags)
    assert code == 0
    assert "classes differ in size, from 6 images (class 0) to 25 (class 1); the generator" in out


def test_latents_hold_the_code_and_noise(mine, run_main, refused):
    classes, least = 2, 18
    flags = [*mine(classes), *MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 24]
    told = refused(train_gan, *flags, "--latent_dim", least - 1)
    assert f"with {classes} classes at least {least}" in told
    assert run_main(train_gan, *flags, "--latent_dim", least)[0] == 0
    generator, _ = load_model("output/gan/generator.safetensors")
    assert generator.latent_dim == least


# ------------------------------------------------------------------------------ what does not fit


def export_pair(folder, names, **facts):
    """folder/d.safetensors and folder/g.safetensors, untrained, of these classes."""
    folder.mkdir(exist_ok=True)
    metadata = {"dataset": "folder", "class_names": names} | facts
    export_model(Discriminator(4, num_classes=len(names)), folder / "d.safetensors", metadata)
    export_model(Generator(4), folder / "g.safetensors", metadata)


def test_networks_of_other_classes_are_refused_with_both_lists(mine, refused, tmp_path):
    set_flags = mine(2)
    export_pair(tmp_path, ["cat", "dog"])
    judge = ["--judge", "d.safetensors"]
    train = [*MACHINE, "--width", 4, "--batch_size", 24, "--evaluate_every", 1]
    for script, *flags in (
        (visualization, "--discriminator_without_G", "d.safetensors", "--attribution"),
        (explore, "--discriminator_without_G", "d.safetensors", "--no_browser"),
        (evaluate_gan, "--generator", "g.safetensors", *judge),
        (train_gan, *train, *judge),
    ):
        message = refused(script, *set_flags, *flags)
        assert "(cat, dog)" in message
        assert "(class 0, class 1)" in message


def test_two_networks_of_different_classes_are_refused(mine, refused, tmp_path):
    """Also if no images are used."""
    export_pair(tmp_path / "two", ["cat", "dog"])
    export_pair(tmp_path / "three", ["cat", "cow", "dog"])
    flags = ["--discriminator_without_G", "two/d.safetensors"]
    flags += ["--discriminator_with_G", "three/d.safetensors", "--max_classification_output"]
    message = refused(visualization, *flags)
    assert "cat, dog" in message
    assert "cat, cow, dog" in message


def test_networks_without_names_take_them_from_the_set(mine, run_main, tmp_path):
    set_flags = [*mine(2), *MACHINE]
    facts = {"dataset": "folder", "class_names": ["cat"]}  # one name of two: none
    export_model(Discriminator(4, num_classes=2), tmp_path / "d.safetensors", facts)
    flags = ["--discriminator_without_G", "d.safetensors", "--max_classification_output"]
    code, out, err = run_main(visualization, *set_flags, *flags, "--steps", 1)
    assert code == 0, err
    assert "class 0" in out


def test_fewer_images_than_classes_give_no_scores(mine, refused, tmp_path):
    set_flags = mine(64)
    export_pair(tmp_path, sorted(f"class {k}" for k in range(64)))
    weights = ["--generator", "g.safetensors", "--judge", "d.safetensors"]
    message = refused(evaluate_gan, *set_flags, *weights, "--samples", 60)
    assert "60 images are too few for the scores of 64 classes" in message


def test_the_folder_has_to_be_given(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for script in (train_discriminator, data_tools):
        assert "give --data_dir" in refused(script, "--dataset", "folder")
    export_pair(tmp_path, ["cat", "dog"])
    flags = ["--discriminator_without_G", "d.safetensors", "--attribution"]
    assert "give --data_dir" in refused(visualization, *flags)
