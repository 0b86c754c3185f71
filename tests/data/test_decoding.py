"""How the user's pictures are decoded, what is left out, what is cached."""

import os

import pytest
import torch
from PIL import Image

from inside_cnn.data import decoding, folder
from inside_cnn.data.folder import load_folder
from own_images import huge_png


def test_invalid_files_are_left_out_and_reported(mine, capsys):
    mine.fill("a", "b")
    valid = (mine.folder / "a/0.png").read_bytes()
    (mine.folder / "a/notes.txt").write_text("words")
    (mine.folder / "a/cut.png").write_bytes(valid[:50])
    (mine.folder / "b/empty.jpg").touch()
    (mine.folder / "b/nowhere.png").symlink_to("not there")
    os.mkfifo(mine.folder / "b/pipe.png")  # to open it would wait for ever
    (mine.folder / "b/bomb.png").write_bytes(huge_png(30_000, 30_000))
    for _ in range(2):  # decoded, and from the cache
        train, test = load_folder(mine.folder)
        assert len(train) + len(test) == 80
        out = capsys.readouterr().out
        assert out.count("left out ") == folder.MAX_LISTED + 1
        assert "left out 6 files in all that are not valid pictures" in out


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"words"), "the file is not a picture"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: path.write_bytes(huge_png(12_000, 12_000)), "more than 89 megapixels"),
        (
            lambda path: (path.touch(), os.truncate(path, decoding.MAX_BYTES + 1)),
            "the file is larger than 200 MB",
        ),
    ],
)
def test_each_is_reported_with_its_path_and_why(mine, capsys, make, reason):
    """Also if a valid picture has the same name in the other part."""
    mine.fill("a", "b", part="train/", count=2)
    mine.fill("a", "b", part="test/", count=2)
    path = mine.folder / "test/a/1.png"
    path.unlink()
    make(path)
    train, test = load_folder(mine.folder)
    assert (len(train), len(test)) == (4, 3)
    assert f"left out {path}: {reason}" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_an_error(mine, monkeypatch):
    mine.fill("a", "b")
    read = decoding.Path.read_bytes

    def read_bytes(path):
        if path.name == "7.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(decoding.Path, "read_bytes", read_bytes)
    with pytest.raises(PermissionError) as error:
        load_folder(mine.folder)
    assert error.value.filename.endswith("7.png")
    monkeypatch.undo()
    assert sum(map(len, load_folder(mine.folder))) == 80  # nothing was cached


# ------------------------------------------------------------------------------ the cache


def cached():
    return sorted(decoding.CACHE.iterdir())


def test_a_set_is_decoded_once(mine, capsys, monkeypatch):
    mine.fill("a", "b")
    first = load_folder(mine.folder)
    assert "decoding 80 files" in capsys.readouterr().out
    monkeypatch.setattr(decoding, "read_picture", None)  # a call of it would raise
    again = load_folder(mine.folder)
    assert capsys.readouterr().out == ""
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.digest == b.digest != ""
    load_folder(os.path.relpath(mine.folder))  # however its path is spelled
    assert capsys.readouterr().out == ""
    assert len(cached()) == 1
    assert sorted(os.listdir(mine.folder)) == ["a", "b"]  # nothing was put beside them


@pytest.mark.parametrize("change", ["time", "size", "name", "gone", "class"])
def test_a_folder_that_changed_is_decoded_again(mine, capsys, change):
    mine.fill("a", "b")
    load_folder(mine.folder)
    path = mine.folder / "a/5.png"
    if change == "time":
        content = path.read_bytes()
        status = path.stat()
        Image.new("RGB", (32, 32), (6, 6, 6)).save(path)
        assert len(content) == path.stat().st_size
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "size":
        status = path.stat()
        path.write_bytes((mine.folder / "b/5.png").read_bytes() + b" ")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "name":
        path.rename(mine.folder / "a/five.png")
    elif change == "gone":
        path.unlink()
    else:
        (mine.folder / "b").rename(mine.folder / "c")
    capsys.readouterr()
    load_folder(mine.folder)
    assert "decoding" in capsys.readouterr().out
    assert len(cached()) == 1  # in place of the old


def test_without_a_cache_if_it_cannot_be_written(mine, capsys):
    mine.fill("a", "b")
    decoding.CACHE.parent.mkdir()
    decoding.CACHE.touch()
    train, _ = load_folder(mine.folder)
    assert len(train) > 60
    assert "warning: the decoded pictures cannot be cached" in capsys.readouterr().out
