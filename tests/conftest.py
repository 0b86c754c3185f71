"""Shared fixtures: images, small networks, CIFAR-10, calls of the scripts."""

import os
import shutil
import signal
from pathlib import Path

import matplotlib
import pytest
import torch
from filelock import FileLock

import quick_plots
import train_discriminator
from discriminator import Discriminator
from inside_cnn.data import cifar10
from inside_cnn.data.shapes import CLASS_NAMES, generate_shapes
from inside_cnn.engine import plots, weights
from inside_cnn.layers.double_backward import compile_works
from own_images import write_pictures

PNG_OF = plots.png_of
matplotlib.use("Agg")
# They start first, so that the workers of pytest-xdist end at about the same time.
SLOWEST_FILES = [
    *("test_models", "test_distributed", "test_inception", "test_visualization", "test_tutorial"),
    *("test_survival", "test_adversarial", "test_networks", "test_hubconf", "test_results"),
    *("test_own_images", "test_learning", "test_page", "test_evaluate_gan", "test_resume"),
]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def images():
    """Eight float images in [-1, 1]."""
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="session")
def cifar10_dir():
    """The folder of CIFAR-10; tests that use it are skipped without it."""
    folder = Path(os.environ.get("CIFAR10_DIR", "data")).absolute()
    if not (folder / cifar10.CIFAR10_FOLDER).is_dir():
        pytest.skip("no CIFAR-10: set CIFAR10_DIR")
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The folder of a training on the shapes, for all workers of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "trained"
    flags = "--dataset shapes --device cpu --precision fp32 --width 12 --batch_size 50 --epochs 1 "
    flags += "--limit_train 10000 --limit_test 1000 --lr 0.01 --muon_lr 0.1 --cutout 0 "
    flags += f"--label_smoothing 0 --ema_decay 0 --output_dir {folder}"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        quick_plots.use(patch.setattr)
        if not (folder / "summary.json").exists():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # rounding depends on it
            assert train_discriminator.main(flags.split()) == 0
            torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def trained(trained_run):
    """A small classifier of the shapes: accurate, but not robust."""
    model, _ = weights.load_model(trained_run / "discriminator.safetensors")
    return model.requires_grad_(False)


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    """So that no test uses or changes the user's own output/."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two_runs(tmp_path):
    """Untrained discriminators in the folders of two trainings, below the current folder."""
    for seed, folder in enumerate(("output/baseline", "output/gan")):
        torch.manual_seed(seed)
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / "discriminator.safetensors"
        weights.export_model(Discriminator(width=12), path, {"dataset": "shapes"})
    return tmp_path


@pytest.fixture(autouse=True)
def published(tmp_path_factory, monkeypatch):
    """An empty folder in place of results/, so that no test depends on the published weights."""
    folder = tmp_path_factory.mktemp("results")
    monkeypatch.setattr(weights, "RESULTS", folder)
    return folder


@pytest.fixture(autouse=True)
def no_matplotlib(monkeypatch):
    """A test that sees the texts and axes of figures asks for matplotlib_plots."""
    quick_plots.use(monkeypatch.setattr)


@pytest.fixture
def matplotlib_plots(no_matplotlib, monkeypatch):
    """Figures as users see them."""
    monkeypatch.setattr(plots, "png_of", PNG_OF)


@pytest.fixture
def uncompiled(monkeypatch):
    """torch.compile returns the function itself."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: function(*args))
    assert compile_works(torch.device("cpu"))


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """Flags of a dataset of 80 + 41 images, which a new process loads faster than the shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (part, count) in enumerate((("train", 80), ("test", 41))):
        images, labels = map(torch.from_numpy, generate_shapes(count, seed))
        write_pictures(folder / part, images, labels, CLASS_NAMES)
    return ["--dataset", "folder", "--data_dir", str(folder)]


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that use it are skipped without it."""
    sync = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def run_main(capsys):
    """Call a script's main; returns (exit code, stdout, stderr)."""

    def call(module, *argv):
        try:
            code = module.main([str(a) for a in argv])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def succeed(run_main):
    """Call main, check that it ends with exit code 0, return stdout."""

    def call(module, *argv):
        code, out, err = run_main(module, *argv)
        assert code == 0, err
        return out

    return call


@pytest.fixture
def refused(run_main):
    """Call main, check that it ends with a user error (exit code 2, one line), return the line."""

    def call(module, *argv):
        code, _, err = run_main(module, *argv)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return call
