"""explore.py and the data of its page; tests/explorer opens the page."""

import base64
import hashlib
import json
import re
import shutil
import webbrowser
from pathlib import Path

import pytest
import torch

import data_tools
import explore
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.explorer import page
from inside_cnn.interpretability.network import TRAININGS

NOTHING = dict.fromkeys([*TRAININGS, "generator"])
VENDORED = {  # the first half of the SHA-256
    "tf.es2017.min.js": "a1f9e32fd9b373cf394905050cf0c8c6",
    "tf-backend-wasm.es2017.min.js": "bdd8c3c1fb0b37601bc2a122efa20b8d",
    "tfjs-backend-wasm-simd.wasm": "77ebb28a6d34f371dbbf2086b7f2de89",
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf75",
}


@pytest.mark.parametrize("name", VENDORED)
def test_vendored_files_are_unchanged(name):
    data = (page.FOLDER / "vendor" / name).read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith(VENDORED[name])


def test_page_is_written_and_opened(run_main, two_runs, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    code, out, _ = run_main(explore, "--output", "deep/page.html")
    assert code == 0
    text = Path("deep/page.html").read_text()
    assert re.search(r"deep/page.html: [\d.]+ MB", out)
    assert opened == [Path("deep/page.html").absolute().as_uri()]
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)=", text)  # everything is in it
    monkeypatch.delenv("DISPLAY")
    run_main(explore)
    run_main(explore, "--no_browser")
    assert len(opened) == 1


def test_most_correlated_feature():
    own = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    others = [-own[:, 1], torch.ones(50), 5 + 2 * own[:, 1] + 0.01 * own[:, 0], torch.ones(50)]
    index, correlation = page.most_correlated(own, torch.stack(others, 1))[1]
    assert (index, correlation) == (2, pytest.approx(1, abs=1e-3))
    assert page.most_correlated(torch.ones(50, 1), own)[0][1] == 0


def test_without_weights(refused):
    assert "train_discriminator.py" in refused(explore, "--no_browser")
    assert not Path("output").exists()


def test_output_that_cannot_be_written(refused, two_runs):
    Path("file").write_text("")
    assert "file" in refused(explore, "--no_browser", "--output", "file/page.html")


def test_statistics(two_runs):
    contents = page.contents_of(NOTHING)
    _, test = data_tools.load_shapes()
    gallery, (classifier, critic) = contents["gallery"], contents["networks"]
    assert gallery["labels"] == [*range(10)] * 20
    pixels = bytearray(b"".join(map(base64.b64decode, gallery["images"])))
    images = torch.frombuffer(pixels, dtype=torch.uint8).view(200, 32, 32, 3).movedim(3, 1)
    for index in (0, 7, 23):
        rank, label = divmod(index, 10)
        of_class = test.images[test.labels == label]
        assert torch.equal(images[index], of_class[rank])
    network, _ = load_model("output/baseline/discriminator.safetensors")
    with torch.no_grad():
        x = data_tools.to_signed(images)
        maps = network.features(x, 4)
        logits = network(x)[1]
    same = torch.tensor(classifier["predicted"]) == logits.argmax(1)
    assert same.double().mean() > 0.95  # 8-bit weights
    layer = classifier["layers"][3]
    strongest = maps.amax((2, 3)).max(0)
    for feature in range(12):
        (image, row, column), *others = layer["top"][feature]
        assert len(others) == 7
        value = maps[image, feature, row, column]
        assert value == pytest.approx(strongest.values[feature].item(), abs=0.05)
        other, correlation = layer["match"][feature]
        assert 0 <= other < 12
        assert -1 <= correlation <= 1
    assert len(layer["favored"]) == 10
    assert critic["layers"][7]["peak"][0] in [[r, c] for r in range(4) for c in range(4)]


def test_samples_replace_missing_test_images(two_runs, monkeypatch):
    """`--dataset cifar10` is refused without the files; by default the page has samples."""
    for run in ("baseline", "gan"):
        path = Path("output") / run / "discriminator.safetensors"
        export_model(Discriminator(width=12), path, {"dataset": "cifar10"})
    monkeypatch.setattr(data_tools, "DEFAULT_DATA_DIR", str(two_runs / "none"))
    assert page.contents_of(NOTHING)["gallery"] is None
    export_model(Generator(width=8), "output/gan/generator.safetensors", {})
    shutil.copytree("output/gan", "other")
    assert page.contents_of(NOTHING | {"with G": "other"})["generator"]
    Path("other/generator.safetensors").unlink()  # that of output/gan does not belong to it
    assert page.contents_of(NOTHING | {"with G": "other"})["generator"] is None
    contents = page.contents_of(NOTHING)
    assert contents["gallery"]["title"] == "generated image"
    assert contents["gallery"]["labels"] == [*range(10)] * 20
    with pytest.raises(data_tools.DataMissing):
        page.contents_of(NOTHING, dataset="cifar10")


def test_networks_of_different_sets_need_a_dataset(two_runs):
    path = "output/gan/discriminator.safetensors"
    export_model(Discriminator(width=12), path, {"dataset": "cifar10"})
    with pytest.raises(page.UserError, match="different sets"):
        page.contents_of(NOTHING)


def test_names_cannot_end_the_data(two_runs, tmp_path):
    """A class name from a shared file of weights cannot add a script to the page."""
    name = "</script><script>alert(1)</script>"
    page.write_page({"classes": [name]}, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["classes"] == [name]
