"""Files that are not what they should be: one line and exit code 2, or left out with a line."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import data_tools
import evaluate_gan
import report
import visualization
from discriminator import Discriminator
from engine import provenance
from engine.weights import export_model
from faults import no_room_for
from generator import Generator
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


# ------------------------------------------------------------------------------ the report


def png_header(width, height):
    """A PNG of any size in no space: its pixels are one long run of zeros."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = zlib.compress(bytes((width // 8 + 2) * height), 9)
    ends = chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x01\x00\x00\x00\x00") + ends


RECORD = '{"epochs_done": 1, "train_loss": 1.5}\n'
HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("output/gan/metrics.jsonl", "5\n[]\n" + RECORD, ""),
        ("output/gan/metrics.jsonl", '{"epochs_done": "x"}\n' + RECORD, ""),
        ("output/gan/metrics.jsonl", NOT_UTF_8 + b"\n" + RECORD.encode(), ""),
        ("output/gan/metrics.jsonl", DEEP + "\n" + RECORD, ""),
        ("output/gan/metrics.jsonl", '{"epochs_done": 1, "train_loss": ' + HUGE + "}\n", ""),
        ("output/gan/config.json", "5", ""),
        ("output/gan/config.json", '{"settings": 5}', ""),
        ("output/gan/config.json", '{"settings": {"a": ' + "[" * 900 + "]" * 900 + "}}", ""),
        ("output/gan/summary.json", '{"test_accuracy": ' + HUGE + "}", ""),
        ("output/gan/summary.json", '{"test_accuracy": {}}', ""),
        ("output/gan/summary.json", DEEP, ""),
        ("visualization/summary.json", '{"with G": 5, "without G": {"layers": 5}}', ""),
        ("visualization/summary.json", '{"with G": {"layers": {"cka": 5, "dead_share": {}}}}', ""),
        ("visualization/summary.json", '{"with G": {"perturbation": {"accuracy_after": []}}}', ""),
        ("evaluation/evaluation.json", '{"scores": {"samples": 5}, "inception": []}', ""),
        ("evaluation/evaluation.json", '{"scores": {"samples": {"precision": ' + HUGE + "}}}", ""),
        ("visualization/layers.png", png_header(19_000, 19_000), "left out: "),
        ("visualization/layers.png", png_header(10, 10)[:-30], "left out: "),
        ("visualization/layers.png", b"GIF89a", "left out: "),
        ("visualization/layers.png", png_header(8, 60_000), ""),
        ("visualization/layers.png", png_header(60_000, 8), ""),
        ("visualization/perturbed_with_G_epsilon1.2.3.png", png_header(8, 8), ""),
        ("output/gan/samples/1.2.png", png_header(8, 8), ""),
    ],
)
def test_the_report_leaves_out_what_it_cannot_show(run_main, tmp_path, file, content, told):
    write(tmp_path / "output/baseline/metrics.jsonl", RECORD)
    write(tmp_path / file, content)
    code, out, err = run_main(report)
    assert code == 0, err
    assert told in out
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_few_classes_in_many_rows_can_be_shown(run_main, tmp_path):
    """A grid that evaluate_gan.py drew, 2 columns wide and 500 rows high."""
    export_model(Generator(width=4), tmp_path / "g.safetensors", {"dataset": "shapes"})
    flags = ["--generator", tmp_path / "g.safetensors", "--sample", 1000, "--labels", 3, 5]
    assert run_main(evaluate_gan, *flags)[0] == 0
    Path("evaluation/sample_grid.png").rename("evaluation/samples.png")
    code, out, err = run_main(report)
    assert code == 0, err
    assert "left out: " not in out
    assert "data:image/webp" in (tmp_path / "report.html").read_text()


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
    assert "knows 3 classes" in refused(evaluate_gan, *generator, *judge, "--samples", 1000)


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
