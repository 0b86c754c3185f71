import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from inside_cnn.core.files import write_atomically


def test_a_write_replaces_what_was_there(tmp_path):
    target = tmp_path / "file"
    for content in (b"old", b"new"):
        write_atomically(target, content)
        assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"new"


def test_many_writers_at_once(tmp_path):
    target = tmp_path / "file"
    contents = [bytes([index]) * 10_000 for index in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(target, content), contents))
    assert target.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(tmp_path, make):
    target = tmp_path / "target"
    make(target)
    kind = stat.S_IFMT(target.stat().st_mode)
    with pytest.raises(OSError, match="no regular file"):
        write_atomically(target, b"new")
    assert stat.S_IFMT(target.stat().st_mode) == kind
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_system_whose_folders_cannot_be_flushed(tmp_path, monkeypatch):
    flush = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
