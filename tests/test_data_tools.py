import contextlib
import fcntl
import hashlib
import io
import json
import os
import pickle
import socket
import stat
import tarfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import data_tools
from data_tools import DataMissing
from inside_cnn.core.errors import UserError
from inside_cnn.data import cifar10

# ------------------------------------------------------------------------------ a small CIFAR-10


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A folder with the official layout, 10 images a file, with checksums of its own."""
    folder = tmp_path / "made" / cifar10.CIFAR10_FOLDER
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
    """That folder as an archive, which is the one to be downloaded."""
    archive = tmp_path / "made" / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small_cifar10, arcname=cifar10.CIFAR10_FOLDER)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", sha256)
    monkeypatch.setattr(cifar10, "URL", archive.as_uri())
    return archive


def assert_nothing_left(data_dir, *expected):
    """Nothing of a download but an empty work folder with its lock."""
    assert {path.name for path in data_dir.iterdir()} == {cifar10.WORK_FOLDER, *expected}
    assert [path.name for path in (data_dir / cifar10.WORK_FOLDER).iterdir()] == [".lock"]


def test_the_official_layout_is_read_and_other_folders_stay(small_cifar10):
    other = small_cifar10.parent / ".cifar10-png" / cifar10.ARCHIVE
    other.parent.mkdir()
    other.write_bytes(b"precious")
    train, test = data_tools.load_dataset("cifar10", small_cifar10.parent, download=False)
    assert train.images.shape == (50, 3, 32, 32)
    assert test.images.shape == (10, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.labels.tolist() == list(range(10)) * 5
    with open(small_cifar10 / "data_batch_1", "rb") as file:
        first = pickle.load(file)["data"][0].reshape(3, 32, 32)
    assert np.array_equal(train.images[0].numpy(), first)
    assert other.read_bytes() == b"precious"


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_corrupt_file_is_named(small_cifar10, damage):
    path = small_cifar10 / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[1000] ^= damage == "altered"
    path.write_bytes(content[:-1] if damage == "truncated" else content)
    if damage == "removed":
        path.unlink()
    for name in ("cifar10", "auto"):  # auto does not hide it
        with pytest.raises(UserError, match=r"data_batch_3.*delete .* and run again"):
            data_tools.load_dataset(name, small_cifar10.parent, download=False)


def test_what_is_unpickled_is_what_was_checked(small_cifar10, monkeypatch):
    """A file that is exchanged after its check has no effect."""
    read = Path.read_bytes

    def exchanged_afterwards(path):
        content = read(path)
        path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        return content

    monkeypatch.setattr(Path, "read_bytes", exchanged_afterwards)
    train, test = data_tools.load_dataset("cifar10", small_cifar10.parent, download=False)
    assert (len(train), len(test)) == (50, 10)


# ------------------------------------------------------------------------------ no CIFAR-10


def test_missing_data_says_where_what_and_the_way_out(tmp_path):
    with pytest.raises(DataMissing) as caught:
        data_tools.load_dataset("cifar10", tmp_path / "nowhere", download=False)
    for part in (str(tmp_path / "nowhere"), cifar10.ARCHIVE, "--dataset shapes"):
        assert part in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_auto_takes_the_shapes_and_says_why(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    train, test = data_tools.load_dataset("auto", tmp_path / "file" / "data")
    assert train.name == test.name == "shapes"
    assert (len(train), len(test)) == (20_000, 2_000)
    assert "shapes" in train.source
    assert "no CIFAR-10 in" in train.source
    assert "Not a directory" in train.source


def test_unknown_dataset():
    with pytest.raises(ValueError, match="mnist"):
        data_tools.load_dataset("mnist")


# ------------------------------------------------------------------------------ the archive


def test_archive_in_the_folder_is_unpacked(small_archive, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    small_archive.rename(target / cifar10.ARCHIVE)
    train, _ = data_tools.load_dataset("cifar10", target, download=False)
    assert len(train) == 50
    assert_nothing_left(target, cifar10.ARCHIVE, cifar10.CIFAR10_FOLDER)


@pytest.mark.parametrize("killed", [False, True])
def test_download(small_archive, tmp_path, killed):
    """Also after a download that was killed."""
    if killed:
        work = tmp_path / "new" / cifar10.WORK_FOLDER
        (work / cifar10.CIFAR10_FOLDER).mkdir(parents=True)
        (work / cifar10.ARCHIVE).write_bytes(b"half")
        (work / cifar10.CIFAR10_FOLDER / "data_batch_1").write_bytes(b"half")
    train, _ = data_tools.load_dataset("auto", tmp_path / "new", download=True)
    assert (train.name, len(train)) == ("cifar10", 50)
    assert_nothing_left(tmp_path / "new", cifar10.CIFAR10_FOLDER)


def test_half_a_download_is_refused(small_archive, tmp_path):
    content = small_archive.read_bytes()
    small_archive.write_bytes(content[: len(content) // 2])
    for name in ("cifar10", "auto"):  # auto takes the shapes only if no download can begin
        with pytest.raises(UserError, match="SHA-256"):
            data_tools.load_dataset(name, tmp_path / "new", download=True)
    assert_nothing_left(tmp_path / "new")


def test_an_incomplete_download_is_an_error(tmp_path):
    response = io.BytesIO(b"half")
    response.headers = {"Content-Length": "8"}
    with open(tmp_path / "archive", "wb") as file, pytest.raises(OSError, match="4 of 8 bytes"):
        cifar10._copy(response, file)


def test_a_file_that_cannot_be_read_is_one_line(small_archive, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read .*: Permission denied"):
        data_tools.load_dataset("cifar10", small_archive.parent, download=False)


def test_an_archive_that_escapes_its_folder_is_not_unpacked(small_archive, tmp_path):
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
    assert_nothing_left(target, evil.name)


@pytest.mark.parametrize(
    ("trickles", "message"), [(False, "timed out"), (True, "download of .* bytes came in 1 s")]
)
def test_a_download_that_stalls_is_given_up(tmp_path, monkeypatch, trickles, message):
    """Whether no data come at all, or a few bytes again and again, for hours if need be."""
    monkeypatch.setattr(cifar10, "DOWNLOAD_STALL_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def answer():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 170498071\r\n\r\n")
                while not ended.wait(0.01):
                    connection.sendall(b"x" * 1000)

        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.getsockname()[1]}/a")
        with ThreadPoolExecutor() as pool:
            if trickles:
                pool.submit(answer)
            try:
                with pytest.raises(UserError, match=message):
                    data_tools.load_dataset("cifar10", tmp_path, download=True)
            finally:
                ended.set()
    assert_nothing_left(tmp_path)


def test_two_nodes_download_it_once(small_archive, tmp_path, monkeypatch, capsys):
    """NFS ignores locks of folders, and refuses those of files that are open for reading only."""
    lock, fetched, begun, go_on = fcntl.flock, [], threading.Event(), threading.Event()

    def lock_of_nfs(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            lock(descriptor, operation)

    def urlopen(*_, **__):
        fetched.append(1)
        begun.set()
        assert go_on.wait(60)
        return urllib.request.urlopen(small_archive.as_uri())

    monkeypatch.setattr(fcntl, "flock", lock_of_nfs)
    monkeypatch.setattr(cifar10, "urlopen", urlopen)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(data_tools.load_dataset, "auto", tmp_path / "new")
        assert begun.wait(60)
        second = pool.submit(data_tools.load_dataset, "auto", tmp_path / "new")
        while "waiting for another process" not in capsys.readouterr().out and len(fetched) < 2:
            time.sleep(0.05)
        go_on.set()
        sets = [job.result(60)[0] for job in (first, second)]
    assert [(part.name, len(part)) for part in sets] == [("cifar10", 50)] * 2
    assert len(fetched) == 1


# ------------------------------------------------------------------------------ order


def test_epoch_order_is_a_function_of_seed_and_epoch():
    order = data_tools.epoch_order(1000, 3, 7)
    assert torch.equal(order, data_tools.epoch_order(1000, 3, 7))
    assert torch.equal(order.sort().values, torch.arange(1000))
    for other in (data_tools.epoch_order(1000, 3, 8), data_tools.epoch_order(1000, 4, 7)):
        assert not torch.equal(order, other)


# ------------------------------------------------------------------------------ pixels


def test_uint8_round_trip():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    signed = data_tools.to_signed(every)
    assert signed.min() == -1
    assert signed.max() == 1
    assert torch.equal(data_tools.to_uint8(signed), every)


def test_facts_hold_the_mean_image():
    train, _ = data_tools.load_shapes()
    facts = json.loads(json.dumps(train.facts()))  # as exported weights hold them
    assert facts["dataset"] == "shapes"
    assert facts["class_names"] == list(train.class_names)
    mean = data_tools.mean_image(facts)
    assert mean.dtype == torch.uint8
    assert mean.shape == (1, 3, 32, 32)
    assert (mean[0].double() - train.images[:128].double().mean(0)).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("text", [None, 7, "not base64", "AAAA"])
def test_no_mean_image(text):
    assert data_tools.mean_image({"mean_image": text}) is None
    assert data_tools.mean_image({}) is None


# ------------------------------------------------------------------------------ the script


def test_main_prints_statistics_and_draws_a_preview(run_main, tmp_path):
    picture = tmp_path / "preview.png"
    code, out, _ = run_main(data_tools, "--dataset", "shapes", "--output", picture)
    assert code == 0
    assert "crescent        2000     200" in out
    assert "mean of R, G, B" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_main_without_data(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/none")
    assert "--dataset shapes" in refused(data_tools, "--data_dir", tmp_path)


@pytest.mark.cifar10
def test_the_real_set(cifar10_dir):
    train, test = data_tools.load_dataset("cifar10", cifar10_dir, download=False)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    mean = train.images.double().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)


def test_the_shapes_are_not_drawn_from_the_stream_of_an_epochs_order():
    """The draw of (seed, 0) would give the labels the order of epoch 0."""
    for epoch, part in enumerate(data_tools.load_shapes()):
        order = data_tools.epoch_order(len(part), 0, epoch)
        assert not torch.equal(part.labels, order % 10)
