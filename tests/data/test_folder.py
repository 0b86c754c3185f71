import os
import unicodedata

import pytest
import torch
from PIL import Image

from inside_cnn.core.errors import UserError
from inside_cnn.data.folder import load_folder, normalized, printable


def levels(dataset):
    """The gray levels, which identify the pictures of `mine`."""
    return dataset.images[:, 0, 0, 0].tolist()


def error_of(folder):
    with pytest.raises(UserError) as error:
        load_folder(folder)
    return str(error.value)


def test_every_picture_is_in_one_part(mine):
    mine.fill("a", "b", count=100)
    train, test = load_folder(mine.folder)
    assert train.class_names == test.class_names == ("a", "b")
    assert sorted(levels(train) + levels(test)) == [*range(200)]
    assert test.labels.bincount().tolist() == [10, 10]
    assert set(train.labels[:20].tolist()) == {0, 1}  # the first images include all classes
    for part in (train, test):
        assert [level >= 100 for level in levels(part)] == part.labels.tolist()
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (len(part), 3, 32, 32)
        assert part.name == "folder"


@pytest.mark.parametrize(("count", "in_test"), [(2, 1), (5, 1), (19, 1), (20, 2), (39, 3)])
def test_a_new_picture_moves_at_most_one_other(mine, count, in_test):
    """Each class has a test picture, also beside files that are no pictures."""
    mine.fill("a", "b", count=count)
    for number in range(3):
        (mine.folder / f"a/{number}.txt").touch()
    before = load_folder(mine.folder)
    assert before[1].labels.bincount().tolist() == [in_test, in_test]
    for number in range(8):
        mine.put(f"b/new {number}.png", 255)
        after = load_folder(mine.folder)
        train, test, new_train, new_test = (set(levels(part)) for part in (*before, *after))
        moved = train & new_test | test & new_train
        assert len(moved - {255}) <= 1
        assert sum(levels(part).count(255) for part in after) == number + 1
        assert after[0].digest != before[0].digest
        before = after


def test_folders_train_and_test(mine, capsys):
    mine.fill("a", "b", count=5, part="train/")
    mine.fill("a", "b", count=2, part="test/")
    mine.put("val/c/1.png")
    (mine.folder / "dataset.json").touch()
    train, test = load_folder(mine.folder)
    out = capsys.readouterr().out
    assert f"{mine.folder / 'val'} is not used" in out
    assert f"{mine.folder / 'dataset.json'} is not read" in out
    assert "10 train pictures have a single color" in out
    assert sorted(levels(train)) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert sorted(levels(test)) == [0, 1, 100, 101]
    assert "10 + 4 pictures of 2 classes" in train.source


def test_subfolders_and_links_are_followed_but_hidden_files_are_not(mine, tmp_path):
    mine.fill("bus", "train")  # a class may be named train
    mine.put("bus/deep/er/1.png", 201)
    mine.put("bus/.hidden.png", 255)
    mine.put("bus/.thumbnails/1.png", 255)
    mine.put(".git/1.png", 255)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (32, 32), (202, 202, 202)).save(tmp_path / "other/x.png")
    (mine.folder / "train/link").symlink_to(tmp_path / "other")
    for name, target in (("loop", "bus"), ("up", "."), ("again", "bus/deep")):
        (mine.folder / "bus" / name).symlink_to(mine.folder / target)  # add no pictures
    loaded = [level for part in load_folder(mine.folder) for level in levels(part)]
    assert len(loaded) == 82
    assert {201, 202} <= set(loaded)
    assert 255 not in loaded


@pytest.mark.parametrize("name", ["two words", "a.b", "猫", "Äpfel", "каша", "$x^2$"])
def test_class_names(mine, name):
    mine.fill(name, "z")
    mine.put(f"{name}/été 1.v2.png")
    assert set(load_folder(mine.folder)[0].class_names) == {name, "z"}


def test_unicode_forms_of_names_give_the_same_dataset(mine):
    """macOS stores accents as separate characters."""
    mine.fill("été", "z")
    composed = load_folder(mine.folder)
    (mine.folder / "été").rename(mine.folder / unicodedata.normalize("NFD", "été"))
    decomposed = load_folder(mine.folder)
    for a, b in zip(composed, decomposed, strict=True):
        assert a.class_names == b.class_names == ("z", "été")
        assert levels(a) == levels(b)
        assert a.digest == b.digest


def test_unprintable_class_name(mine):
    mine.fill("z")
    os.makedirs(os.fsencode(mine.folder) + b"/a\xff\n")
    for number in range(40):
        with open(os.fsencode(mine.folder) + b"/a\xff\n/%d.png" % number, "wb") as file:
            file.write((mine.folder / "z/0.png").read_bytes())
    assert load_folder(mine.folder)[0].class_names == ("a??", "z")
    mine.fill("a?\n")
    assert "holds two folders called a??; rename one" in error_of(mine.folder)


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN"])
def test_folders_of_a_system_are_ignored(mine, name):
    mine.fill("a", "b")
    mine.put(f"{name}/a/1.png", 255)
    mine.put(f"a/{name}/1.png/thumbnail.png", 255)
    train, test = load_folder(mine.folder)
    assert train.class_names == ("a", "b")
    assert 255 not in levels(train) + levels(test)


def test_names_are_utf8_in_every_locale(monkeypatch):
    latin = "猫".encode().decode("latin-1")  # what Python reads from the disk with LC_ALL=en_US
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("latin-1"))
    assert normalized(latin) == printable(latin) == "猫"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "there is no folder {folder}"),
        (["1.png"], "{folder} holds 0 folders; it must hold one folder of pictures per class"),
        (["a/1.png"], "{folder} holds 1 folders"),
        ([f"c{k}/1.png" for k in range(65)], "{folder} holds 65 folders"),
        (["a/1.png", "a/2.png", "c/1.jpg"], "class c has no picture in the train set"),
        (
            ["a/1.png", "a/2.png", "c/1.png"],
            "class c has no picture in the test set; each class needs at least two",
        ),
        (
            [f"{path}/1.png" for path in ("train/a", "train/c", "test/a", "test/d")],
            "{folder}: only one of train and test holds the classes c, d",
        ),
    ],
)
def test_folder_without_valid_classes(mine, files, message):
    """1.jpg is no picture."""
    for file in files:
        path = mine.put(file)
        if path.suffix == ".jpg":
            path.write_text("text")
    assert error_of(mine.folder).startswith(message.format(folder=mine.folder))


@pytest.mark.parametrize("parts", [("train", "val"), ("Train", "Test"), ("seg_train", "dev")])
def test_other_names_of_train_and_test(mine, parts):
    for part in parts:
        mine.fill("a", "b", part=f"{part}/", count=1)
    message = error_of(mine.folder)
    assert "the same classes in each; rename" in message
    assert all(part in message for part in parts)
