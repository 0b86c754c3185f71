import contextlib
import fcntl
import functools
import hashlib
import http.server
import json
import os
import pickle
import shutil
import socket
import stat
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

import data_tools
from data_tools import DataError, DataMissing
from image_sets import cifar10

# ------------------------------------------------------------------------------ a small CIFAR-10


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A folder with the official layout, 10 images a file, and torchvision told its checksums."""
    folder = tmp_path / "made" / cifar10.CIFAR10_FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    checksums = {}
    for name in [entry[0] for entry in CIFAR10.train_list + CIFAR10.test_list]:
        data = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        content = pickle.dumps({"data": data, "labels": list(range(10))})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": list(cifar10.CIFAR10_CLASSES)})
    (folder / "batches.meta").write_bytes(meta)

    def retold(entries):
        return [[name, checksums[name]] for name, _ in entries]

    monkeypatch.setattr(CIFAR10, "train_list", retold(CIFAR10.train_list))
    monkeypatch.setattr(CIFAR10, "test_list", retold(CIFAR10.test_list))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": hashlib.md5(meta).hexdigest()})
    return folder


@pytest.fixture
def small_archive(small_cifar10, tmp_path, monkeypatch):
    """That folder as an archive, with its checksums in place of the official ones."""
    archive = tmp_path / "made" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small_cifar10, arcname=cifar10.CIFAR10_FOLDER)
    content = archive.read_bytes()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", hashlib.sha256(content).hexdigest())
    return archive


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder by HTTP on this machine, and have CIFAR10.url name it."""
    servers = []

    def start(folder):
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}"
        monkeypatch.setattr(CIFAR10, "url", url)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_nothing_left(data_dir, *expected):
    """Nothing of a download but an empty workplace with its lock."""
    assert {path.name for path in data_dir.iterdir()} == {cifar10.WORKPLACE, *expected}
    assert [path.name for path in (data_dir / cifar10.WORKPLACE).iterdir()] == [".lock"]


def test_reads_the_official_layout(small_cifar10):
    train, test = data_tools.load_dataset("cifar10", small_cifar10.parent, download=False)
    assert train.images.shape == (50, 3, 32, 32)
    assert test.images.shape == (10, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.labels.tolist() == list(range(10)) * 5
    with open(small_cifar10 / "data_batch_1", "rb") as file:
        first = pickle.load(file)["data"][0].reshape(3, 32, 32)
    assert np.array_equal(train.images[0].numpy(), first)


def test_two_nodes_fetch_it_once(small_archive, tmp_path, monkeypatch, capsys):
    """With the locks of Linux's NFS: a folder's is not known elsewhere, a file's has to be open
    for writing."""
    lock, fetched, begun, go_on = fcntl.flock, [], threading.Event(), threading.Event()

    def lock_of_nfs(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            lock(descriptor, operation)

    def download(url, folder, name, md5):
        fetched.append(folder)
        begun.set()
        assert go_on.wait(60)
        shutil.copy(small_archive, Path(folder) / name)

    monkeypatch.setattr(fcntl, "flock", lock_of_nfs)
    monkeypatch.setattr(cifar10, "download_url", download)
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


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_file_is_named(small_cifar10, damage):
    path = small_cifar10 / "data_batch_3"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "altered":
        content[1000] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    for name in ("cifar10", "auto"):  # auto does not paper over damage
        with pytest.raises(DataError, match=r"data_batch_3 is .*delete .* and run again"):
            data_tools.load_dataset(name, small_cifar10.parent, download=False)


def test_missing_data_says_where_what_and_the_way_out(tmp_path):
    with pytest.raises(DataMissing) as caught:
        data_tools.load_dataset("cifar10", tmp_path / "nowhere", download=False)
    for part in (str(tmp_path / "nowhere"), CIFAR10.filename, "--dataset shapes"):
        assert part in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_unreadable_data_dir_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataMissing, match="cannot be put there"):
        data_tools.load_dataset("cifar10", tmp_path / "file" / "data", download=True)
    train, _ = data_tools.load_dataset("auto", tmp_path / "file" / "data", download=True)
    assert train.name == "shapes"


def test_auto_says_that_it_took_shapes_and_why(tmp_path):
    train, test = data_tools.load_dataset("auto", tmp_path, download=False)
    assert train.name == test.name == "shapes"
    assert (len(train), len(test)) == (20_000, 2_000)
    assert "shapes" in train.source
    assert "CIFAR-10 is not to be had" in train.source


def test_unknown_dataset():
    with pytest.raises(ValueError, match="mnist"):
        data_tools.load_dataset("mnist")


def test_archive_in_the_folder_is_unpacked(small_archive, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    small_archive.rename(target / CIFAR10.filename)
    train, _ = data_tools.load_dataset("cifar10", target, download=False)
    assert len(train) == 50
    assert_nothing_left(target, CIFAR10.filename, cifar10.CIFAR10_FOLDER)


def test_download(small_archive, serve, tmp_path):
    serve(small_archive.parent)
    train, _ = data_tools.load_dataset("auto", tmp_path / "new", download=True)
    assert train.name == "cifar10"
    assert_nothing_left(tmp_path / "new", cifar10.CIFAR10_FOLDER)


def test_half_a_download_is_not_taken(small_archive, serve, tmp_path):
    content = small_archive.read_bytes()
    small_archive.write_bytes(content[: len(content) // 2])
    serve(small_archive.parent)
    for name in ("cifar10", "auto"):  # auto takes the shapes only where none can be begun
        with pytest.raises(DataError, match="download failed"):
            data_tools.load_dataset(name, tmp_path / "new", download=True)
    assert_nothing_left(tmp_path / "new")


def test_archive_with_the_right_md5_only_is_refused(small_archive, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", "0" * 64)
    serve(small_archive.parent)
    with pytest.raises(DataError, match="SHA-256"):
        data_tools.load_dataset("cifar10", tmp_path / "new", download=True)
    assert_nothing_left(tmp_path / "new")


def test_an_archive_that_climbs_out_of_its_folder_is_not_unpacked(small_archive, tmp_path):
    target = tmp_path / "deep" / "data"
    target.mkdir(parents=True)
    evil = target / CIFAR10.filename
    (tmp_path / "payload").write_text("evil")
    with tarfile.open(evil, "w:gz") as tar:
        tar.add(small_archive.parent / cifar10.CIFAR10_FOLDER, cifar10.CIFAR10_FOLDER)
        tar.add(tmp_path / "payload", "../../climbed")
        tar.add(tmp_path / "payload", str(tmp_path / "absolute"))
    with pytest.raises(DataError, match="SHA-256"):
        data_tools.load_dataset("cifar10", target, download=False)
    assert not (tmp_path / "climbed").exists()
    assert not (tmp_path / "absolute").exists()
    assert_nothing_left(target, evil.name)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_download_that_stalls_is_given_up(tmp_path, monkeypatch, trickles):
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

        thread = threading.Thread(target=answer)
        if trickles:
            thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{CIFAR10.filename}"
        monkeypatch.setattr(CIFAR10, "url", url)
        try:
            with pytest.raises(DataError, match="bytes came in 1 s"):
                data_tools.load_dataset("cifar10", tmp_path, download=True)
        finally:
            ended.set()
            if trickles:
                thread.join()


def test_folders_of_others_stay(small_cifar10):
    for name in (".cifar10-png", ".cifar10-a"):
        (small_cifar10.parent / name).mkdir()
        (small_cifar10.parent / name / CIFAR10.filename).write_bytes(b"precious")
    data_tools.load_dataset("cifar10", small_cifar10.parent, download=False)
    for name in (".cifar10-png", ".cifar10-a"):
        assert (small_cifar10.parent / name / CIFAR10.filename).read_bytes() == b"precious"


def test_what_a_killed_download_left_is_overwritten(small_archive, serve, tmp_path):
    serve(small_archive.parent)
    work = tmp_path / "new" / cifar10.WORKPLACE
    (work / cifar10.CIFAR10_FOLDER).mkdir(parents=True)
    (work / CIFAR10.filename).write_bytes(b"half")
    (work / cifar10.CIFAR10_FOLDER / "data_batch_1").write_bytes(b"half")
    assert len(data_tools.load_dataset("cifar10", tmp_path / "new")[0]) == 50
    assert_nothing_left(tmp_path / "new", cifar10.CIFAR10_FOLDER)


def test_what_is_unpickled_is_what_was_checked(small_cifar10, monkeypatch):
    """A file that is exchanged after its check has no effect."""
    opened = []
    read = Path.read_bytes

    def exchanged_afterwards(path):
        content = read(path)
        opened.append(path.name)
        path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        return content

    monkeypatch.setattr(Path, "read_bytes", exchanged_afterwards)
    train, test = data_tools.load_dataset("cifar10", small_cifar10.parent, download=False)
    assert (len(train), len(test)) == (50, 10)
    assert len(opened) == len(set(opened)) == 7


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
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none")
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
