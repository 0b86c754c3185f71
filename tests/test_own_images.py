"""One's own images through every script: other numbers of classes, and what does not fit."""

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
from engine.weights import export_model, load_model
from explorer.session import load_session
from generator import Generator
from image_sets import cifar10
from image_sets.folder import load_folder
from interpretability.trained_networks import TRAININGS
from own_images import SEVEN, write_pictures, write_set, write_seven_classes
from training import run

MACHINE = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """make(number of classes): flags that take a folder of so many; the folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metrics.scores.KERNEL_SUBSETS", 2)

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

    told = call(evaluate_gan, *set_flags, *MACHINE, "--samples", 384)
    assert "are few: compare" in told
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
    """To the last digit of every figure of a short training of either kind."""
    train, test = (part.first(300) for part in data_tools.load_shapes())
    names = sorted(train.class_names)
    write_set(tmp_path / "mine", train, test, train.class_names)
    few = [*MACHINE, "--width", 4, "--epochs", 2, "--batch_size", 50]

    def logs(name, *flags):
        found = []
        for script in (train_discriminator, train_gan):
            folder = tmp_path / name / script.__name__
            assert run_main(script, *few, *flags, "--output_dir", folder)[0] == 0
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            for record in records:
                del record["images_per_second"], record["peak_memory_gb"]
            found.append(records)
        return found

    of_files = logs("files", "--dataset", "folder", "--data_dir", tmp_path / "mine")
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
    assert logs("tensors", "--dataset", "shapes") == of_files


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


def test_classes_of_uneven_sizes_are_told(mine, run_main, tmp_path):
    flags = [*mine(2), *MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 20]
    for number in range(2, 40, 2):
        (tmp_path / f"mine/train/class 0/{number:06d}.png").unlink()
    code, out, _ = run_main(train_gan, *flags)
    assert code == 0
    assert "classes differ in size, from 6 images (class 0) to 25 (class 1); the generator" in out


@pytest.mark.parametrize(("classes", "least"), [(2, 18), (64, 80)])
def test_latents_hold_the_code_and_noise(mine, run_main, refused, classes, least):
    flags = [*mine(classes), *MACHINE, "--width", 4, "--epochs", 1, "--batch_size", 24]
    told = refused(train_gan, *flags, "--latent_dim", least - 1)
    assert f"with {classes} classes at least {least}" in told
    assert run_main(train_gan, *flags, "--latent_dim", least)[0] == 0
    generator, _ = load_model("output/gan/generator.safetensors")
    assert generator.latent_dim == least


# ------------------------------------------------------------------------------ what does not fit


def test_networks_of_other_classes_are_refused_with_both_lists(mine, refused, tmp_path):
    set_flags = mine(2)
    facts = {"dataset": "folder", "class_names": ["cat", "dog"]}
    export_model(Discriminator(4, num_classes=2), tmp_path / "d.safetensors", facts)
    export_model(Generator(4), tmp_path / "g.safetensors", facts)
    weights, drawn = ["--discriminator_without_G", tmp_path / "d.safetensors"], "g.safetensors"
    for told in (
        refused(visualization, *set_flags, *weights, "--attribution"),
        refused(explore, *set_flags, *weights, "--no_browser"),
        refused(
            evaluate_gan, *set_flags, "--generator", drawn, "--judge", tmp_path / "d.safetensors"
        ),
    ):
        assert "(cat, dog)" in told
        assert "(class 0, class 1)" in told


def test_two_networks_of_different_classes_are_refused(mine, refused, tmp_path):
    """Where no images are looked at, too."""
    for number, names in enumerate((["cat", "dog"], ["cat", "cow", "dog"])):
        facts = {"dataset": "folder", "class_names": names}
        model = Discriminator(4, num_classes=len(names))
        export_model(model, tmp_path / f"{number}.safetensors", facts)
    flags = ["--discriminator_without_G", "0.safetensors", "--discriminator_with_G"]
    for module in (visualization, explore):
        more = ["--max_classification_output"] if module is visualization else ["--no_browser"]
        told = refused(module, *flags, "1.safetensors", *more)
        assert "cat, dog" in told
        assert "cat, cow, dog" in told


@pytest.mark.parametrize("told", [{}, {"class_names": ["cat"]}, {"dataset": ["folder"]}])
def test_networks_that_tell_little_learn_it_from_the_set(mine, run_main, tmp_path, told):
    set_flags = [*mine(2), *MACHINE]
    facts = {"dataset": "folder"} | told
    export_model(Discriminator(4, num_classes=2), tmp_path / "d.safetensors", facts)
    flags = ["--discriminator_without_G", "d.safetensors", "--max_classification_output"]
    code, out, err = run_main(visualization, *set_flags, *flags, "--steps", 1)
    if "dataset" in told:
        assert code == 2
        assert "was trained on" in err
    else:
        assert code == 0, err
        assert "class 0" in out


def test_fewer_images_than_classes_are_no_scores(mine, refused, tmp_path):
    facts = {"dataset": "folder", "class_names": sorted(f"class {k}" for k in range(64))}
    set_flags = mine(64)
    export_model(Discriminator(4, num_classes=64), tmp_path / "d.safetensors", facts)
    export_model(Generator(4), tmp_path / "g.safetensors", facts)
    weights = ["--generator", "g.safetensors", "--judge", "d.safetensors"]
    told = refused(evaluate_gan, *set_flags, *weights, "--samples", 60)
    assert "60 images are too few for the scores of 64 classes" in told


def test_a_judge_of_other_classes_is_refused(mine, refused, tmp_path):
    set_flags = [*mine(2), *MACHINE, "--width", 4, "--batch_size", 24]
    facts = {"dataset": "cifar10", "class_names": ["cat", "dog"]}
    export_model(Discriminator(4, num_classes=2), tmp_path / "d.safetensors", facts)
    judge = ["--evaluate_every", 1, "--judge", tmp_path / "d.safetensors"]
    assert "the judge" in refused(train_gan, *set_flags, *judge)


def test_ones_own_images_of_the_classes_of_another_set(mine, run_main, tmp_path, trained):
    """The classes count, not where the network met them."""
    train, test = (part.first(200) for part in data_tools.load_shapes())
    write_set(tmp_path / "photos", train, test, [f"{k}" for k in range(10)])
    about = {"dataset": "shapes", "class_names": [f"{k}" for k in range(10)]}
    export_model(trained, tmp_path / "d.safetensors", about)
    flags = ["--dataset", "folder", "--data_dir", tmp_path / "photos", *MACHINE]
    flags += ["--discriminator_without_G", tmp_path / "d.safetensors", "--perturb_images"]
    code, _, err = run_main(visualization, *flags, "--study_images", 100)
    assert code == 0, err
    summary = json.loads(Path("visualization/summary.json").read_text())
    assert summary["without G"]["perturbation"]["accuracy_before"] > 50


def test_where_they_are_has_to_be_told(run_main, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in (train_discriminator, train_gan, data_tools):
        assert "give --data_dir" in refused(module, "--dataset", "folder")
    facts = {"dataset": "folder", "class_names": ["cat", "dog"]}
    export_model(Discriminator(4, num_classes=2), tmp_path / "d.safetensors", facts)
    weights = ["--discriminator_without_G", tmp_path / "d.safetensors"]
    for flags in (["--dataset", "folder"], ["--attribution"]):
        assert "give --data_dir" in refused(visualization, *weights, *flags)
