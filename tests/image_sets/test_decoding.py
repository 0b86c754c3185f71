"""How one's own images are decoded, what is left out, what is kept."""

import os

import pytest
import torch
from PIL import Image

from image_sets import decoding, folder
from image_sets.dataset import DataError
from image_sets.folder import load_folder
from image_sets.pictures import read_picture


def test_processes_decode_what_one_decodes(mine, monkeypatch):
    mine.fill("a", "b")
    one = load_folder(mine.folder)
    monkeypatch.setattr(decoding, "FEW", 1)
    monkeypatch.setattr(folder, "read_cache", lambda *_: None)
    torch.manual_seed(5)
    many = load_folder(mine.folder)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))  # the global stream is left alone
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_a_process_that_is_killed(mine, monkeypatch):
    mine.fill("a", "b")
    monkeypatch.setattr(decoding, "FEW", 1)
    monkeypatch.setattr(decoding.Decoder, "__getitem__", lambda *_: os.kill(os.getpid(), 9))
    with pytest.raises(DataError, match="cannot decode the pictures"):
        load_folder(mine.folder)


# ------------------------------------------------------------------------------ what is no picture


def test_what_is_no_picture_is_left_out_and_told(mine, capsys):
    mine.fill("a", "b")
    whole = (mine.folder / "a/0.png").read_bytes()
    (mine.folder / "a/notes.txt").write_text("words")
    (mine.folder / "a/cut.png").write_bytes(whole[:50])
    (mine.folder / "b/empty.jpg").touch()
    (mine.folder / "b/nowhere.png").symlink_to("not there")
    os.mkfifo(mine.folder / "b/pipe.png")  # to open it would wait for ever
    Image.new("1", (30_000, 30_000)).save(mine.folder / "b/bomb.png")
    for _ in range(2):  # decoded, and out of what is kept
        train, test = load_folder(mine.folder)
        assert len(train) + len(test) == 80
        told = capsys.readouterr().out
        assert told.count("left out ") == folder.TOLD + 1
        assert "left out 6 files in all that are no pictures" in told


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("notes.txt", b"words", "no picture"),
        ("empty.jpg", b"", "no picture"),
        ("pipe.png", None, "it is no file"),
    ],
)
def test_each_is_told_with_its_path_and_why(mine, capsys, name, content, why):
    mine.fill("a", "b")
    if content is None:
        os.mkfifo(mine.folder / "a" / name)
    else:
        (mine.folder / "a" / name).write_bytes(content)
    load_folder(mine.folder)
    assert f"left out {mine.folder / 'a' / name}: " in (told := capsys.readouterr().out)
    assert why in told


def test_a_file_that_cannot_be_read_is_left_out(mine, capsys, monkeypatch):
    mine.fill("a", "b")
    read = decoding.Path.read_bytes

    def read_bytes(path):
        if path.name == "7.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(decoding.Path, "read_bytes", read_bytes)
    train, test = load_folder(mine.folder)
    assert len(train) + len(test) == 78
    assert "a/7.png: it cannot be read: Permission denied" in capsys.readouterr().out


def test_a_decoder_that_breaks_is_a_damaged_picture(mine, capsys, monkeypatch):
    mine.fill("a", "b")
    odd = (mine.folder / "a/3.png").read_bytes()

    def read(content, **_):
        if content == odd:
            raise KeyError("chunk")
        return read_picture(content)

    monkeypatch.setattr(decoding, "read_picture", read)
    load_folder(mine.folder)
    assert "a/3.png: the picture is damaged: KeyError" in capsys.readouterr().out


def test_a_file_too_large_is_not_even_read(mine, capsys, monkeypatch):
    mine.fill("a", "b")
    with open(mine.folder / "a/huge.png", "wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    load_folder(mine.folder)
    assert "huge.png: the file is larger than 200 MB" in capsys.readouterr().out


# ------------------------------------------------------------------------------ what is kept


def kept():
    return sorted(decoding.CACHE.iterdir())


def test_a_set_is_decoded_once(mine, capsys, monkeypatch):
    mine.fill("a", "b")
    first = load_folder(mine.folder)
    assert "decoding 80 files" in capsys.readouterr().out
    monkeypatch.setattr(decoding, "read_picture", None)  # a call of it would be told
    again = load_folder(mine.folder)
    assert capsys.readouterr().out == ""
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.digest == b.digest != ""
    load_folder(os.path.relpath(mine.folder))  # however its path is spelled
    assert capsys.readouterr().out == ""
    assert len(kept()) == 1
    assert sorted(os.listdir(mine.folder)) == ["a", "b"]  # nothing was put beside them


@pytest.mark.parametrize("change", ["time", "size", "name", "gone", "class"])
def test_a_folder_that_changed_is_decoded_anew(mine, capsys, change):
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
    assert len(kept()) == 1  # in place of the old


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-1] + b"\x07", lambda b: b""])
def test_a_damaged_cache_is_made_anew(mine, capsys, damage):
    mine.fill("a", "b")
    first, _ = load_folder(mine.folder)
    (path,) = kept()
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    again, _ = load_folder(mine.folder)
    assert "decoding" in capsys.readouterr().out
    assert torch.equal(first.images, again.images)


def test_a_cache_that_cannot_be_written_is_done_without(mine, capsys):
    mine.fill("a", "b")
    decoding.CACHE.parent.mkdir()
    decoding.CACHE.touch()
    train, _ = load_folder(mine.folder)
    assert len(train) > 60
    assert "warning: the decoded pictures could not be kept" in capsys.readouterr().out
