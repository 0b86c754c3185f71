import contextlib
import fcntl
import hashlib
import http.server
import io
import pickle
import socket
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
from torchvision.transforms.functional import to_pil_image

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
    first = pickle.loads((small_cifar10 / "data_batch_1").read_bytes())["data"][0]
    assert np.array_equal(train.images[0].flatten().numpy(), first)


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


def test_pictures_are_not_mistaken_for_cifar10(tmp_path):
    """--data_dir without --dataset folder: nothing is downloaded between the pictures."""
    images, mine = torch.zeros(20, 3, 32, 32, dtype=torch.uint8), tmp_path / "mine"
    for part in ("train", "test"):
        write_pictures(mine / part, images, torch.arange(20) % 2, "ab")
    for path in [*mine.rglob("*.png")]:
        path.rename(path.with_suffix(""))
    before = sorted(mine.rglob("*"))
    with pytest.raises(UserError, match="not CIFAR-10; give --dataset folder"):
        data_tools.load_dataset("cifar10", mine)
    assert data_tools.load_dataset("auto", mine)[0].name == "folder"
    assert sorted(mine.rglob("*")) == before
    with pytest.raises(DataMissing, match="no CIFAR-10"):
        data_tools.load_dataset("auto", tmp_path / "new", download=False)


# ------------------------------------------------------------------------------ the archive


def test_only_the_official_archive_in_the_folder_is_unpacked(small_archive, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    archive = small_archive.rename(target / cifar10.ARCHIVE)
    official = archive.read_bytes()
    archive.write_bytes(official + b"\0")
    with pytest.raises(UserError, match="SHA-256"):
        data_tools.load_dataset("cifar10", target, download=False)
    assert_only(target, cifar10.ARCHIVE)
    archive.write_bytes(official)
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


def assert_same_sets(sets, expected):
    for part, of in zip(sets, expected, strict=True):
        assert torch.equal(part.images, of.images)
        assert torch.equal(part.labels, of.labels)


def test_folders_with_the_names_of_archives_are_ignored(tmp_path):
    for name in (cifar10.ARCHIVE, cifar10.BINARY_ARCHIVE):
        (tmp_path / name).mkdir()
    (tmp_path / cifar10.CIFAR10_FOLDER).write_text("")
    assert cifar10.find_cifar10(tmp_path) == (None, None)


def test_binary_archive(small_cifar10, tmp_path, monkeypatch):
    expected = data_tools.load_dataset("cifar10", small_cifar10.parent)
    target = tmp_path / "target"
    target.mkdir()
    rows = [torch.cat([p.labels.byte()[:, None], p.images.flatten(1)], 1) for p in expected]
    archive = target / cifar10.BINARY_ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        for name, records in zip(cifar10.MD5, torch.cat(rows).split(10), strict=True):
            (tmp_path / name).write_bytes(records.numpy().tobytes())
            tar.add(tmp_path / name, f"cifar-10-batches-bin/{name}.bin")
    with pytest.raises(UserError, match="not the official archive"):
        data_tools.load_dataset("cifar10", target)
    monkeypatch.setattr(cifar10, "BINARY_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert_same_sets(data_tools.load_dataset("auto", target), expected)


def test_parquet_of_hugging_face(small_cifar10, tmp_path, monkeypatch):
    expected = data_tools.load_dataset("cifar10", small_cifar10.parent)
    folder = tmp_path / "data" / "plain_text"
    folder.mkdir(parents=True)
    digests = {}
    for name, part in zip(cifar10.PARQUET, expected, strict=True):
        pictures, records = [], []
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            buffer = io.BytesIO()
            to_pil_image(image).save(buffer, "PNG")
            pictures.append({"img": {"bytes": buffer.getvalue(), "path": None}, "label": label})
            records.append(bytes([label]) + image.numpy().tobytes())
        for i, rows in enumerate((pictures[:7], pictures[7:])):
            file = folder / name.replace("*", f"0000{i}-of-00002")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        digests[name] = hashlib.sha256(b"".join(sorted(records))).hexdigest()
    with pytest.raises(UserError, match="do not have the images of CIFAR-10"):
        data_tools.load_dataset("cifar10", folder)
    monkeypatch.setattr(cifar10, "PARQUET", digests)
    assert_same_sets(data_tools.load_dataset("auto", folder.parent), expected)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs `pip install pyarrow`"):
        data_tools.load_dataset("cifar10", folder)


def test_two_processes_download_once(small_archive, tmp_path, monkeypatch):
    """NFS ignores locks of folders and refuses locks of files that are open for reading only."""
    lock, fetched = fcntl.flock, []

    def lock_of_nfs(file, operation):
        assert file.writable()
        lock(file, operation)

    def slow_download(urls, sha256):
        assert sha256 == cifar10.CIFAR10_SHA256
        fetched.append(urls)
        time.sleep(0.5)  # without the lock, the other one would download now
        return small_archive.read_bytes()

    monkeypatch.setattr(fcntl, "flock", lock_of_nfs)
    monkeypatch.setattr(cifar10, "download_file", slow_download)
    with ThreadPoolExecutor() as pool:
        sets = list(pool.map(data_tools.load_dataset, ["auto"] * 2, [tmp_path / "new"] * 2))
    assert [(train.name, len(train)) for train, _ in sets] == [("cifar10", 50)] * 2
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
