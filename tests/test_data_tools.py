import contextlib
import fcntl
import hashlib
import http.server
import io
import os
import pickle
import socket
import stat
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import data_tools
from data_tools import DataMissing
from inside_cnn.core.errors import UserError
from inside_cnn.data import cifar10, download
from own_images import write_pictures

# ------------------------------------------------------------------------------ a small CIFAR-10


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A folder with the official layout, 10 images per file, and its own checksums."""
    folder = tmp_path / "source" / cifar10.CIFAR10_FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    checksums = {}
    for name in cifar10.MD5:
        data = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        content = pickle.dumps({"data": data, "labels": list(range(10))})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar10, "MD5", checksums)
    return folder


@pytest.fixture
def small_archive(small_cifar10, tmp_path, monkeypatch):
    """The same folder as an archive, in place of the official one."""
    archive = tmp_path / "source" / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small_cifar10, arcname=cifar10.CIFAR10_FOLDER)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", sha256)
    monkeypatch.setattr(cifar10, "URLS", [archive.as_uri()])
    return archive


def assert_only(data_dir, *expected):
    """Nothing is left of a download except an empty work folder with its lock."""
    assert {path.name for path in data_dir.iterdir()} == {cifar10.WORK_FOLDER, *expected}
    assert [path.name for path in (data_dir / cifar10.WORK_FOLDER).iterdir()] == [".lock"]


@pytest.mark.parametrize("within", ["", cifar10.CIFAR10_FOLDER])
def test_official_layout(small_cifar10, within):
    folder = small_cifar10.parent / within
    train, test = data_tools.load_dataset("cifar10", folder, download=False)
    assert train.images.shape == (50, 3, 32, 32)
    assert test.images.shape == (10, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.labels.tolist() == list(range(10)) * 5
    with open(small_cifar10 / "data_batch_1", "rb") as file:
        first = pickle.load(file)["data"][0].reshape(3, 32, 32)
    assert np.array_equal(train.images[0].numpy(), first)


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_corrupt_file_is_named(small_cifar10, damage):
    path = small_cifar10 / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[1000] ^= damage == "altered"
    path.write_bytes(content[:-1] if damage == "truncated" else content)
    if damage == "removed":
        path.unlink()
    for name in ("cifar10", "auto"):  # auto does not hide it
        with pytest.raises(UserError, match=r"data_batch_3.*delete .* and run again"):
            data_tools.load_dataset(name, small_cifar10.parent, download=False)


def test_checked_bytes_are_unpickled(small_cifar10, monkeypatch):
    """A file that is replaced after its check has no effect."""
    read = Path.read_bytes

    def replaced_afterwards(path):
        content = read(path)
        path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        return content

    monkeypatch.setattr(Path, "read_bytes", replaced_afterwards)
    train, test = data_tools.load_dataset("cifar10", small_cifar10.parent, download=False)
    assert (len(train), len(test)) == (50, 10)


# ------------------------------------------------------------------------------ no CIFAR-10


def test_missing_data_names_the_folder_and_the_remedy(tmp_path):
    with pytest.raises(DataMissing) as caught:
        data_tools.load_dataset("cifar10", tmp_path / "absent", download=False)
    for part in (str(tmp_path / "absent"), cifar10.ARCHIVE, "--dataset shapes"):
        assert part in str(caught.value)
    assert not (tmp_path / "absent").exists()
    with pytest.raises(DataMissing, match="give --data_dir"):
        data_tools.load_dataset("folder")


def test_auto_uses_the_shapes_without_cifar10(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(data_tools, "DEFAULT_DATA_DIR", str(tmp_path / "file" / "data"))
    train, test = data_tools.load_dataset("auto")
    assert train.name == test.name == "shapes"
    assert (len(train), len(test)) == (20_000, 2_000)
    assert "no CIFAR-10 in" in train.source
    assert "Not a directory" in train.source


@pytest.mark.parametrize("folder", ["", "train/", "a/b/"])
def test_pictures_are_not_mistaken_for_cifar10(tmp_path, folder):
    """--data_dir without --dataset folder: nothing is downloaded between the pictures."""
    images, mine = torch.zeros(20, 3, 32, 32, dtype=torch.uint8), tmp_path / "mine"
    if folder == "a/b/":
        write_pictures(mine, images, torch.arange(20) % 2, ["a/b", "c/d"])
        for path in [*mine.rglob("*.png")]:
            path.rename(path.with_suffix(""))
    else:
        for part in {folder, folder and "test/"}:
            write_pictures(mine / part, images, torch.arange(20) % 2, ["a", "b"])
    before = sorted(mine.rglob("*"))
    with pytest.raises(UserError, match="not CIFAR-10; give --dataset folder"):
        data_tools.load_dataset("cifar10", mine)
    assert data_tools.load_dataset("auto", mine)[0].name == "folder"
    assert sorted(mine.rglob("*")) == before
    with pytest.raises(DataMissing, match="no CIFAR-10"):
        data_tools.load_dataset("auto", tmp_path / "new", download=False)


# ------------------------------------------------------------------------------ the archive


def test_archive_in_the_folder_is_unpacked(small_archive, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    small_archive.rename(target / cifar10.ARCHIVE)
    train, _ = data_tools.load_dataset("cifar10", target, download=False)
    assert len(train) == 50
    assert_only(target, cifar10.ARCHIVE, cifar10.CIFAR10_FOLDER)


@pytest.mark.parametrize("killed", [False, True])
def test_download(small_archive, tmp_path, killed):
    """Also after a process that was killed while it unpacked the archive."""
    if killed:
        work = tmp_path / "new" / cifar10.WORK_FOLDER
        (work / cifar10.CIFAR10_FOLDER).mkdir(parents=True)
        (work / cifar10.CIFAR10_FOLDER / "data_batch_1").write_bytes(b"half")
    train, _ = data_tools.load_dataset("auto", tmp_path / "new", download=True)
    assert (train.name, len(train)) == ("cifar10", 50)
    assert_only(tmp_path / "new", cifar10.CIFAR10_FOLDER)


def test_stalled_download_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(cifar10, "URLS", [f"http://127.0.0.1:{server.getsockname()[1]}/a"])
        with pytest.raises(DataMissing, match="timed out"):
            data_tools.load_dataset("cifar10", tmp_path, download=True)
    assert_only(tmp_path)


CONTENT = bytes(range(256)) * 400
DEAD = "http://127.0.0.1:9/file"


@pytest.fixture
def mirrors():
    """URLs of CONTENT on a local server; the slow one pauses, the wrong one has other content."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = CONTENT[::-1] if self.path == "/wrong" else CONTENT
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client left
                for first in range(0, len(content), 10_000):
                    self.wfile.write(content[first : first + 10_000])
                    time.sleep(0.04 * (self.path == "/slow"))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield {name: f"{address}/{name}" for name in ("slow", "wrong", "good")} | {"dead": DEAD}
        server.shutdown()


@pytest.mark.parametrize("order", ["slow wrong dead good", "good", "wrong slow", "slow dead slow"])
def test_mirrors_are_tried_in_order(mirrors, monkeypatch, capsys, order):
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.1)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert download.download([mirrors[name] for name in order.split()], digest) == CONTENT
    left = f"{mirrors['slow']} is slow; trying the next" in capsys.readouterr().out
    assert left == ("slow" in order)


def test_failed_mirrors_are_all_named(mirrors):
    urls = [DEAD, mirrors["good"]]
    with pytest.raises(OSError, match=rf"{urls[0]}: .*refused.*; {urls[1]}: invalid hash"):
        download.download(urls, "0" * 64)


def test_binary_archive(small_cifar10, tmp_path, monkeypatch):
    train, test = data_tools.load_dataset("cifar10", small_cifar10.parent)
    target = tmp_path / "target"
    target.mkdir()
    labels = torch.cat([train.labels, test.labels]).numpy().astype(np.uint8)
    pixels = torch.cat([train.images, test.images]).flatten(1).numpy()
    records = np.concatenate([labels[:, None], pixels], 1)
    with tarfile.open(target / cifar10.BINARY_ARCHIVE, "w:gz") as tar:
        for number, name in enumerate(cifar10.MD5):
            content = records[10 * number : 10 * number + 10].tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sha256 = hashlib.sha256((target / cifar10.BINARY_ARCHIVE).read_bytes()).hexdigest()
    with pytest.raises(UserError, match="not the official archive"):
        data_tools.load_dataset("cifar10", target)
    monkeypatch.setattr(cifar10, "BINARY_SHA256", sha256)
    for part, expected in zip(data_tools.load_dataset("auto", target), (train, test), strict=True):
        assert torch.equal(part.images, expected.images)
        assert torch.equal(part.labels, expected.labels)


def test_parquet_of_hugging_face(small_cifar10, tmp_path, monkeypatch):
    expected = data_tools.load_dataset("cifar10", small_cifar10.parent)
    folder = tmp_path / "data" / "plain_text"
    folder.mkdir(parents=True)
    digests = {}
    for name, part in zip(cifar10.PARQUET, expected, strict=True):
        pictures, records = [], []
        for image, label in zip(part.images.permute(0, 2, 3, 1), part.labels.tolist(), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image.numpy()).save(buffer, "PNG")
            pictures.append({"img": {"bytes": buffer.getvalue(), "path": None}, "label": label})
            records.append(bytes([label]) + image.permute(2, 0, 1).numpy().tobytes())
        for i, rows in enumerate((pictures[:7], pictures[7:])):
            file = folder / name.replace("*", f"0000{i}-of-00002")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        digests[name] = hashlib.sha256(b"".join(sorted(records))).hexdigest()
    with pytest.raises(UserError, match="do not have the images of CIFAR-10"):
        data_tools.load_dataset("cifar10", folder)
    monkeypatch.setattr(cifar10, "PARQUET", digests)
    for part, of in zip(data_tools.load_dataset("auto", folder.parent), expected, strict=True):
        assert torch.equal(part.images, of.images)
        assert torch.equal(part.labels, of.labels)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs `pip install pyarrow`"):
        data_tools.load_dataset("cifar10", folder)


def test_archive_that_escapes_its_folder_is_not_unpacked(small_archive, tmp_path):
    target = tmp_path / "deep" / "data"
    target.mkdir(parents=True)
    evil = target / cifar10.ARCHIVE
    (tmp_path / "payload").write_text("evil")
    with tarfile.open(evil, "w:gz") as tar:
        tar.add(small_archive.parent / cifar10.CIFAR10_FOLDER, cifar10.CIFAR10_FOLDER)
        tar.add(tmp_path / "payload", "../../escaped")
    with pytest.raises(UserError, match="SHA-256"):
        data_tools.load_dataset("cifar10", target, download=False)
    assert not (tmp_path / "escaped").exists()
    assert_only(target, evil.name)


def test_two_processes_download_once(small_archive, tmp_path, monkeypatch):
    """NFS ignores locks of folders and refuses locks of files that are open for reading only."""
    lock, fetched, started, proceed = fcntl.flock, [], threading.Event(), threading.Event()

    def lock_of_nfs(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            lock(descriptor, operation)

    def slow_download(urls, sha256):
        assert sha256 == cifar10.CIFAR10_SHA256
        fetched.append(urls)
        started.set()
        assert proceed.wait(60)
        return small_archive.read_bytes()

    monkeypatch.setattr(fcntl, "flock", lock_of_nfs)
    monkeypatch.setattr(cifar10, "download_file", slow_download)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(data_tools.load_dataset, "auto", tmp_path / "new")
        assert started.wait(60)
        second = pool.submit(data_tools.load_dataset, "auto", tmp_path / "new")
        time.sleep(0.5)  # without the lock, the second one would download now
        proceed.set()
        sets = [job.result(60)[0] for job in (first, second)]
    assert [(part.name, len(part)) for part in sets] == [("cifar10", 50)] * 2
    assert len(fetched) == 1


# ------------------------------------------------------------------------------ the script


def test_epoch_order_is_a_function_of_seed_and_epoch():
    order = data_tools.epoch_order(1000, 3, 7)
    assert torch.equal(order, data_tools.epoch_order(1000, 3, 7))
    assert torch.equal(order.sort().values, torch.arange(1000))
    for other in (data_tools.epoch_order(1000, 3, 8), data_tools.epoch_order(1000, 4, 7)):
        assert not torch.equal(order, other)


def test_main_prints_class_sizes_and_writes_a_preview(succeed, matplotlib_plots, tmp_path):
    picture = tmp_path / "preview.png"
    out = succeed(data_tools, "--dataset", "shapes", "--output", picture)
    assert "crescent        2000     200" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.cifar10
def test_real_cifar10(cifar10_dir):
    train, test = data_tools.load_dataset("cifar10", cifar10_dir, download=False)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    mean = train.images.double().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
