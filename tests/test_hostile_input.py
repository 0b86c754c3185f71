"""Files that are not what they should be: one line and exit code 2, or left out with a line."""

import os
import subprocess
import sys

import pytest

import data_tools
import evaluate_gan
import visualization
from discriminator import Discriminator
from faults import no_room_for
from generator import Generator
from inside_cnn.engine.weights import export_model
from inside_cnn.training import provenance
from processes import ENVIRONMENT, ROOT

QUICK = ["--limit_test", 60, "--steps", 3, "--device", "cpu", "--precision", "fp32"]
DEEP = "[" * 100_000
NOT_UTF_8 = b'{"step": 1, "name": "\xff"}'


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_git_that_hangs_is_not_waited_for(monkeypatch):
    def hang(command, timeout=None, **_):
        assert timeout is not None
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert provenance.git_commit() == "unknown"


# ------------------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    "name",
    [
        "$x^$",
        "a\ud800b",
        "猫",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("\x1b[31m", "$")),
    ],
)
def test_odd_names_of_classes(run_main, tmp_path, name):
    _, test = data_tools.load_shapes()
    about = test.facts() | {"class_names": [f"{name}{k}" for k in range(10)]}
    export_model(Discriminator(width=4), tmp_path / "d.safetensors", about)
    flags = ["--discriminator_with_G", tmp_path / "d.safetensors"]
    code, _, err = run_main(visualization, *QUICK, "--max_classification_output", *flags)
    assert code == 0, err
    assert (tmp_path / "visualization/max_class_with_G.png").exists()
    export_model(Generator(width=4), tmp_path / "g.safetensors", about)
    for form in ("grid", "png"):
        flags = ["--generator", tmp_path / "g.safetensors", "--sample", 20, "--format", form]
        assert run_main(evaluate_gan, *flags, "--output_dir", tmp_path / form)[0] == 0


def test_weights_that_no_script_can_use(refused, tmp_path):
    facts = {"dataset": "shapes"}
    export_model(Generator(4), tmp_path / "g.safetensors", facts)
    export_model(Generator(4, latent_dim=5), tmp_path / "short.safetensors", facts)
    export_model(Discriminator(4, num_classes=3), tmp_path / "three.safetensors", facts)
    judge = ["--judge", tmp_path / "three.safetensors"]
    short = ["--generator", tmp_path / "short.safetensors"]
    assert "no room for 10 classes" in refused(evaluate_gan, *short, "--sample", 5)
    export_model(Generator(4), tmp_path / "odd.safetensors", facts | {"num_classes": "many"})
    odd = ["--generator", tmp_path / "odd.safetensors"]
    assert "impossible sizes" in refused(evaluate_gan, *odd, "--sample", 5)
    generator = ["--generator", tmp_path / "g.safetensors"]
    assert "has 3 classes" in refused(evaluate_gan, *generator, *judge, "--samples", 1000)


def test_a_disk_that_fills_while_pictures_are_drawn(refused, tmp_path):
    export_model(Discriminator(width=4), tmp_path / "d.safetensors", {"dataset": "shapes"})
    flags = ["--max_classification_output", "--discriminator_with_G", tmp_path / "d.safetensors"]
    with no_room_for("max_class_*.png"):
        told = refused(visualization, *QUICK, *flags)
    assert "cannot write to visualization: No space left" in told


# ------------------------------------------------------------------------------ names


def test_a_path_that_no_stream_can_print(tmp_path):
    """Bytes that are no UTF-8, on a stdout that knows ASCII alone."""
    export_model(Generator(width=4), tmp_path / "g.safetensors", {"dataset": "shapes"})
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    script = [sys.executable, ROOT / "evaluate_gan.py", "--generator", tmp_path / "g.safetensors"]
    done = subprocess.run(
        [*map(str, script), "--sample", "4", "--output_dir", folder],
        env=ENVIRONMENT | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert os.listdir(folder) == [b"sample_grid.png"]


def test_an_empty_name_of_the_data_folder_is_none():
    program = "import data_tools; print(data_tools.DEFAULT_DATA_DIR)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT | {"CIFAR10_DIR": ""},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout == "data\n"
