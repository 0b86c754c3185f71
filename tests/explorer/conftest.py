"""Pages of small networks and of the published ones, in headless Chromium."""

import functools
from pathlib import Path

import pytest
import torch

from browser import pages_of
from discriminator import Discriminator
from generator import Generator
from inside_cnn.data import shapes
from inside_cnn.engine.weights import export_bytes, export_model, load_model
from inside_cnn.explorer.page import contents_of, write_page
from own_images import write_pictures

RESULTS = Path(__file__).parents[2] / "results"
ODD = "<!--<script>${1 + 1}{{2}}"  # a class name may be anything printable
NAMES = [f"{k}_{name}" for k, name in enumerate([*shapes.CLASS_NAMES[:-1], ODD])]


class Page:
    """A page and the same networks in PyTorch, rounded to 8 bits as in the page."""

    def __init__(self, folder, paths, **options):
        self.path = folder / "explore.html"
        self.contents = contents_of(paths, **options)
        write_page(self.contents, self.path)
        rounded = folder / "rounded.safetensors"
        self.networks = []
        for path in paths.values():
            model, _ = load_model(path)
            rounded.write_bytes(export_bytes(model, {}, in_8_bits=True))
            self.networks.append(load_model(rounded)[0].requires_grad_(False))
        *self.networks, self.generator = self.networks


@pytest.fixture(scope="session")
def small(trained, tmp_path_factory):
    """Two discriminators and a generator of small width, and 300 test images."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    generator = Generator(width=8, latent_dim=30)
    generator.to_rgb.weight.data *= 30  # else all samples are gray
    models = {"without G": trained, "with G": Discriminator(width=8), "generator": generator}
    paths = {name: folder / f"{name}.safetensors" for name in models}
    for name, model in models.items():
        export_model(model, paths[name], {"dataset": "folder", "class_names": NAMES})
    train, test = shapes.load_shapes()
    for part, dataset in (("train", train.first(60)), ("test", test.first(300))):
        write_pictures(folder / "pictures" / part, dataset.images, dataset.labels, NAMES)
    return Page(folder, paths, data_dir=folder / "pictures")


@pytest.fixture(scope="session")
def full_size(tmp_path_factory):
    """The published networks, with samples in the gallery."""
    files = "baseline/discriminator", "gan/discriminator", "gan/generator"
    names = "without G", "with G", "generator"
    paths = {n: RESULTS / f"{f}.safetensors" for n, f in zip(names, files, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inside_cnn.explorer.page.test_images", lambda *_: None)
        return Page(tmp_path_factory.mktemp("full_size"), paths)


@pytest.fixture
def open_page(browser):
    """As pages_of, which closes and checks the pages at the end of the test."""
    with pages_of(browser, ready="#gpu") as call:
        yield call


@pytest.fixture(scope="module")
def open_shared(browser):
    """The same for the tests of a module that only call functions of the page."""
    with pages_of(browser, ready="#gpu") as call:
        yield functools.cache(call)
