"""The page where something is missing: one network, no generator, no images."""

import asyncio

import gradio as gr
import pytest
import torch

from inside_cnn.data import shapes
from inside_cnn.engine.weights import export_model
from inside_cnn.explorer import maximise
from inside_cnn.explorer.examples import Examples
from inside_cnn.explorer.inside_tab import InsideTab
from inside_cnn.explorer.maximise_tab import Choice, MaximiseTab
from inside_cnn.explorer.mislead_tab import MisleadTab
from inside_cnn.explorer.page import build, value_of
from inside_cnn.explorer.session import load_session


def made(make, *args):
    """make(*args) in a running event loop: without one, gradio leaves one of its own open."""

    async def making():
        if make is build:
            return make(*args)
        with gr.Blocks():
            return make(*args)

    return asyncio.run(making())


@pytest.fixture
def alone(trained, tmp_path, monkeypatch):
    """The session of a classifier alone, whose weights tell neither names nor where to begin."""
    monkeypatch.chdir(tmp_path)
    export_model(trained, tmp_path / "discriminator.safetensors", {"dataset": "cifar10"})
    given = {"without G": tmp_path / "discriminator.safetensors", "with G": None, "generator": None}
    return load_session(given, torch.device("cpu"), "nowhere")


def test_a_page_of_a_classifier_alone(alone, tmp_path):
    blocks = made(build, alone, tmp_path)
    labels = [part.label for part in blocks.blocks.values() if isinstance(part, gr.Tab)]
    assert labels == ["Mislead", "Maximise", "Look inside", "Switch off"]


def test_its_tabs_answer(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(maximise, "STEPS", 3)
    monkeypatch.setattr("inside_cnn.explorer.maximise_tab.STEPS", 3)
    monkeypatch.setattr(maximise.climb, "__defaults__", ("fp32", 3))
    picture = shapes.load_shapes()[1].images[5]
    mislead = made(MisleadTab, alone)
    inside = made(InsideTab, alone, Examples(alone, tmp_path))
    climbing = made(MaximiseTab, alone, Examples(alone, tmp_path))
    assert "upload one" in mislead.show("", 4, "step", "away", 1, "without G", None)[0]
    shown, verdicts = mislead.show("uploaded 1", 4, "pgd", "away", 1, "without G", picture)
    assert shown.count("<figure") == 3
    assert verdicts.count("<section") == 1
    (grid,) = inside.show("uploaded 1", 3, picture)
    assert grid.count("<button") == 6
    *_, answer = inside.show_feature(Choice(), "without G: 5", "uploaded 1", 3, picture)
    assert answer.count("<figure") == 2
    for method in ("robust", "classic"):
        *_, (last, _) = climbing.show(Choice(), "without G", "feature", 0, 4, 7, method)
        assert last.count("<figure") == 1
    assert "no images" in climbing.show_examples("without G", "class", 0, 4, 7)


def test_a_climb_that_is_no_longer_wanted_is_given_up(alone, tmp_path):
    tab = made(MaximiseTab, alone, Examples(alone, tmp_path))
    choice = Choice()
    frames = tab.show(choice, "without G", "class", 0, 4, 0, "robust")
    next(frames)
    tab.forget(choice)
    assert list(frames) == []


def test_what_an_address_sets_a_component_to():
    number = gr.Slider(0, 10, 3)
    radio = gr.Radio([("one", 1), ("two", 2)], value=1)
    text = gr.Textbox()
    skipped = gr.skip()
    assert (value_of(number, "4"), value_of(number, "4.5")) == (4, 4.5)
    assert [value_of(number, t) for t in ("11", "-1", "x", "nan", None)] == [skipped] * 5
    assert value_of(radio, "2") == 2
    assert value_of(radio, "3") == skipped
    assert value_of(text, "a" * 1000) == "a" * 200
