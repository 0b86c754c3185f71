import numpy as np
import pytest
import torch

import evaluate_gan
from generator import Generator
from inside_cnn.engine.weights import export_model
from inside_cnn.explorer.drawing import GRID, Drawing, draw
from inside_cnn.explorer.session import Session

NAMES = [str(k) for k in range(10)]


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return Generator(width=8, latent_dim=30).eval()


@pytest.fixture
def session(generator):
    return Session([], generator, None, True, NAMES)


def test_image_i_of_class_k_is_sample_10_i_plus_k(session, generator, run_main, tmp_path):
    export_model(generator, tmp_path / "generator.safetensors", {"dataset": "shapes"})
    flags = ["--sample", 60, "--format", "npz", "--seed", 5, "--precision", "fp32"]
    flags += ["--generator", tmp_path / "generator.safetensors", "--device", "cpu"]
    assert run_main(evaluate_gan, *flags, "--output_dir", tmp_path / "out")[0] == 0
    samples = torch.from_numpy(np.load(tmp_path / "out" / "samples.npz")["arr_0"])
    drawings = [Drawing(5, label, number) for number in range(6) for label in range(10)]
    assert torch.equal(draw(session, drawings), samples.permute(0, 3, 1, 2))


def test_a_mixture_of_one_class_is_that_class(session):
    shares = tuple(40.0 * (k == 3) for k in range(10))
    (pure, mixed) = draw(session, [Drawing(label=3), Drawing(label=3, shares=shares)])
    assert torch.equal(pure, mixed)
    half = Drawing(label=3, shares=tuple(50.0 * (k in (3, 5)) for k in range(10)))
    code = half.latent(session.generator, 10)[0, :10]
    assert code.tolist() == [0.5 * (k in (3, 5)) for k in range(10)]


def test_the_way_begins_and_ends_at_its_images(session):
    start, end = Drawing(label=2, number=4), Drawing(label=6, number=9)
    way = Drawing(label=2, number=4, other_label=6, other_number=9)
    images = draw(session, way.sixteen(along_the_way=True))
    ends = draw(session, [start, end])
    assert len(images) == GRID
    assert torch.equal(images[0], ends[0])
    assert (images[-1].float() - ends[1].float()).abs().max() <= 1
    assert not torch.equal(images[7], ends[0])


def test_sixteen_numbers(session):
    drawings = Drawing(seed=3, label=1, number=7).sixteen(along_the_way=False)
    assert [drawing.number for drawing in drawings] == list(range(7, 23))
    latents = torch.cat([drawing.latent(session.generator, 10) for drawing in drawings])
    assert len(latents.unique(dim=0)) == GRID
    assert draw(session, drawings).shape == (GRID, 3, 32, 32)


def test_a_line_of_text_brings_a_drawing_back():
    for drawing in (
        Drawing(),
        Drawing(2**31 - 1, 9, 99, tuple(float(k) for k in range(10)), 4, 5, 0.35),
    ):
        assert Drawing.from_text(drawing.to_text(), 10) == drawing


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0 0 0 0 0", "a b c d e f", "0 10 0 0 0 0", "0 0 0 0 0 2", "-1 0 0 0 0 0"),
        *("0 0 0 0 0 nan", "nan 0 0 0 0 0", "inf 0 0 0 0 0", "0 0 99999999 0 0 0"),
        *("0 0 0 0 0 0 1 2", "0 0 0 0 0 0 " + "101 " * 10, "0 -1 0 0 0 0"),
    ],
)
def test_another_line_is_none(text):
    assert Drawing.from_text(text, 10) is None
