import os

import pytest
import torch
from PIL import Image

from inside_cnn.data import decoding, folder
from inside_cnn.data.folder import load_folder
from own_images import huge_png


def test_invalid_files_are_ignored_and_reported(mine, capsys):
    mine.fill("a", "b")
    valid = (mine.folder / "a/0.png").read_bytes()
    (mine.folder / "a/notes.txt").write_text("text")
    (mine.folder / "a/truncated.png").write_bytes(valid[:50])
    (mine.folder / "b/empty.jpg").touch()
    (mine.folder / "b/bomb.png").write_bytes(huge_png(30_000, 30_000))
    (mine.folder / "b/dangling.png").symlink_to("absent")
    os.mkfifo(mine.folder / "b/pipe.png")  # opening it would block
    for _ in range(2):  # decoded, then cached
        train, test = load_folder(mine.folder)
        assert len(train) + len(test) == 80
        out = capsys.readouterr().out
        assert out.count("ignored ") == folder.MAX_LISTED + 1
        assert "ignored 4 files in total that are not valid pictures" in out


def test_ignored_file_is_reported_with_its_reason(mine, capsys):
    """A valid picture has the same name in the other part."""
    for part in ("train/", "test/"):
        mine.fill("a", "b", part=part, count=2)
    path = mine.folder / "test/a/1.png"
    os.truncate(path, decoding.MAX_BYTES + 1)
    train, test = load_folder(mine.folder)
    assert (len(train), len(test)) == (4, 3)
    assert f"ignored {path}: the file is larger than 200 MB" in capsys.readouterr().out


def test_a_folder_is_decoded_once(mine, capsys, monkeypatch):
    mine.fill("a", "b")
    first = load_folder(mine.folder)
    assert "decoding 80 files" in capsys.readouterr().out
    second = load_folder(os.path.relpath(mine.folder))
    assert "decoding" not in capsys.readouterr().out
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.digest == b.digest != ""
    assert len(list(decoding.CACHE.iterdir())) == 1
    assert sorted(os.listdir(mine.folder)) == ["a", "b"]  # no file was added


@pytest.mark.parametrize("change", ["time", "size", "name", "removed", "class"])
def test_a_changed_folder_is_decoded_again(mine, capsys, change):
    mine.fill("a", "b")
    load_folder(mine.folder)
    path = mine.folder / "a/5.png"
    status = path.stat()
    if change == "time":
        Image.new("RGB", (32, 32), (6, 6, 6)).save(path)
        assert path.stat().st_size == status.st_size
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "size":
        path.write_bytes((mine.folder / "b/5.png").read_bytes() + b" ")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "name":
        path.rename(mine.folder / "a/five.png")
    elif change == "removed":
        path.unlink()
    else:
        (mine.folder / "b").rename(mine.folder / "c")
    capsys.readouterr()
    load_folder(mine.folder)
    assert "decoding" in capsys.readouterr().out
    assert len(list(decoding.CACHE.iterdir())) == 1  # the old file was replaced


def test_unwritable_cache_is_a_warning(mine, capsys):
    mine.fill("a", "b")
    decoding.CACHE.parent.mkdir()
    decoding.CACHE.touch()
    train, _ = load_folder(mine.folder)
    assert len(train) > 60
    assert "warning: the decoded pictures cannot be cached" in capsys.readouterr().out
