import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from inside_cnn.core.files import write_atomically


def test_write_replaces_the_content(tmp_path):
    target = tmp_path / "file"
    for content in (b"old", b"new"):
        write_atomically(target, content)
        assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("fails", "outcome", "content"),
    [
        (stat.S_ISREG, pytest.raises(OSError, match="No space"), b"old"),
        (stat.S_ISDIR, nullcontext(), b"new"),  # ignored
    ],
)
def test_failed_flush_of_a_file_or_folder(tmp_path, monkeypatch, fails, outcome, content):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def fsync(descriptor):
        if fails(os.fstat(descriptor).st_mode):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with outcome:
        write_atomically(target, b"new")
    assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]


def test_symbolic_link_is_replaced(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()


def test_concurrent_writes(tmp_path):
    target = tmp_path / "file"
    contents = [bytes([index]) * 10_000 for index in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(target, content), contents))
    assert target.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [target]


def test_pipe_is_not_replaced(tmp_path):
    target = tmp_path / "target"
    os.mkfifo(target)
    with pytest.raises(OSError, match="not a regular file"):
        write_atomically(target, b"new")
    assert list(tmp_path.iterdir()) == [target]
    assert target.is_fifo()
