"""The user's own images: which are used, in which order, what is refused."""

import os
import unicodedata

import pytest
import torch
from PIL import Image

from engine.errors import UserError
from image_sets.folder import load_folder


def levels(dataset):
    """What tells the pictures of `mine` apart."""
    return dataset.images[:, 0, 0, 0].tolist()


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_folder(folder)
    return str(error.value)


# ------------------------------------------------------------------------------ which, and where


def test_every_picture_is_in_one_part_and_a_tenth_in_the_test(mine):
    mine.fill("a", "b", count=100)
    train, test = load_folder(mine.folder)
    assert train.class_names == test.class_names == ("a", "b")
    assert sorted(levels(train) + levels(test)) == sorted([*range(100), *range(100, 200)])
    assert 10 <= len(test) <= 35
    for part in (train, test):
        assert [level >= 100 for level in levels(part)] == part.labels.tolist()
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (len(part), 3, 32, 32)
        assert part.name == "folder"


def test_the_first_images_are_of_all_classes(mine):
    mine.fill(*"abcd")
    train, _ = load_folder(mine.folder)
    assert set(train.labels[:20].tolist()) == {0, 1, 2, 3}


def test_adding_a_picture_moves_no_other(mine):
    mine.fill("a", "b")
    before = load_folder(mine.folder)
    mine.put("b/new.png", 255)
    after = load_folder(mine.folder)
    for old, new in zip(before, after, strict=True):
        assert [level for level in levels(new) if level < 255] == levels(old)
    assert sum(levels(part).count(255) for part in after) == 1
    assert after[0].digest != before[0].digest


def test_parts_of_ones_own(mine):
    mine.fill("a", "b", count=5, part="train/")
    mine.fill("a", "b", count=2, part="test/")
    mine.put("notes/c/1.png")  # beside them: nothing
    train, test = load_folder(mine.folder)
    assert sorted(levels(train)) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert sorted(levels(test)) == [0, 1, 100, 101]
    assert "10 + 4 pictures of 2 classes" in train.source


def test_a_class_may_be_named_train(mine):
    mine.fill("bus", "train")
    assert load_folder(mine.folder)[0].class_names == ("bus", "train")


def test_folders_in_a_class_and_links_are_followed_and_hidden_files_are_not(mine, tmp_path):
    mine.fill("a", "b")
    mine.put("a/deep/er/1.png", 201)
    mine.put("a/.hidden.png", 255)
    mine.put("a/.thumbnails/1.png", 255)
    mine.put(".git/1.png", 255)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (32, 32), (202, 202, 202)).save(tmp_path / "other/x.png")
    (mine.folder / "b/link").symlink_to(tmp_path / "other")
    found = [level for part in load_folder(mine.folder) for level in levels(part)]
    assert len(found) == 82
    assert {201, 202} <= set(found)
    assert 255 not in found


@pytest.mark.parametrize("name", ["two words", "a.b", "猫", "Äpfel", "каша", "$x^2$"])
def test_names_of_classes(mine, name):
    mine.fill(name, "z")
    mine.put(f"{name}/été 1.v2.png")
    assert set(load_folder(mine.folder)[0].class_names) == {name, "z"}


def test_the_same_set_however_a_system_spells_its_names(mine, tmp_path):
    """macOS takes accents apart."""
    mine.fill("été", "z")
    here = load_folder(mine.folder)
    (mine.folder / "été").rename(mine.folder / unicodedata.normalize("NFD", "été"))
    assert len(os.listdir(mine.folder)) == 2
    there = load_folder(mine.folder)
    assert here[0].class_names == there[0].class_names == ("z", "été")
    assert [levels(part) for part in there] == [levels(part) for part in here]
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert a.digest == b.digest


def test_a_name_that_cannot_be_shown(mine):
    mine.fill("z")
    os.makedirs(os.fsencode(mine.folder) + b"/a\xff\n")
    for number in range(40):
        with open(os.fsencode(mine.folder) + b"/a\xff\n/%d.png" % number, "wb") as file:
            file.write((mine.folder / "z/0.png").read_bytes())
    assert load_folder(mine.folder)[0].class_names == ("a??", "z")


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "there is no folder {folder}"),
        ([], "{folder} holds no folder of pictures; it has to hold one for each class"),
        (["1.png"], "{folder} holds no folder of pictures; it has to hold one for each class"),
        (["a/1.png"], "{folder} holds one class only (a); at least 2"),
        ([f"c{k}/1.png" for k in range(65)], "{folder} holds 65 classes; at most 64"),
    ],
)
def test_folders_that_are_no_set_of_classes(mine, files, message):
    if files is not None:
        mine.folder.mkdir()
        for file in files:
            mine.put(file)
    assert refusal(mine.folder) == message.format(folder=mine.folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "class c, of 0 files, has no picture for training"),
        (
            {"1.jpg": "words"},
            "class c, of 1 files ({folder}/c/1.jpg: the file is not a picture (of PNG, JPEG, WEBP, "
            "GIF, BMP, TIFF, PPM)), has no picture for training",
        ),
        (
            {"1.png": None},
            "class c, of 1 files, has no picture among the one in 10 for the test; with 100 of "
            "each class that is unlikely, or sort them into train/CLASS and test/CLASS yourself",
        ),
    ],
)
def test_a_class_without_a_picture(mine, files, message):
    mine.fill("a", "b")
    (mine.folder / "c").mkdir()
    for name, text in files.items():
        if text:
            (mine.folder / "c" / name).write_text(text)
        else:
            mine.put(f"c/{name}")
    assert refusal(mine.folder) == message.format(folder=mine.folder)


def test_a_test_of_other_classes(mine):
    mine.fill("a", "b", "c", part="train/", count=2)
    mine.fill("a", "b", "d", part="test/", count=2)
    told = refusal(mine.folder)
    assert "in train alone: c" in told
    assert "in test alone: d" in told


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("Train", "Test"), ("training", "testing"), ("seg_train", "dev")]
)
def test_parts_by_other_names(mine, parts):
    for part in parts:
        mine.fill("a", "b", part=f"{part}/", count=40)
    told = refusal(mine.folder)
    assert "the same classes in each; rename" in told
    assert all(part in told for part in parts)


def test_a_link_that_goes_in_a_circle(mine):
    mine.fill("a", "b")
    (mine.folder / "a/again").symlink_to(mine.folder)
    told = refusal(mine.folder)
    assert f"{mine.folder / 'a/again/a'} is a folder that it lies in" in told
    assert "goes in a circle" in told


def test_names_that_are_spelled_alike(mine):
    mine.fill(unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"))
    assert "spelled alike" in refusal(mine.folder)
