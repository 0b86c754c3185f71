"""Captured steps that are cut in two where processes talk: on a stand-in, and (marked gpu) real."""

import contextlib
from argparse import Namespace

import pytest
import torch
from torch import nn

from training import distributed
from training.cuda_graph import WARM_UP, CapturedStep, CudaCapturer, outside
from training.distributed import Ranks


class Recorder:
    """Stands in for torch.cuda's graphs: tells in which order they begin, end and are replayed."""

    def __init__(self, monkeypatch):
        self.events, self.graphs = [], 0
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self.new_graph)
        monkeypatch.setattr(torch.cuda, "graph", self.capture)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
        monkeypatch.setattr(torch.cuda, "Stream", lambda: "the stream")
        for name in ("current_stream", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: None)

    def new_graph(self):
        name = f"graph {self.graphs}"
        self.graphs += 1
        return Namespace(name=name, replay=lambda: self.events.append(f"replay {name}"))

    @contextlib.contextmanager
    def capture(self, graph, pool, stream):
        assert (pool, stream) == ("the pool", "the stream")  # both alike: they share their memory
        self.events.append(f"begin {graph.name}")
        yield
        self.events.append(f"end {graph.name}")


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


def test_what_is_done_outside_cuts_the_graph_in_two(recorder):
    events = recorder.events

    def step():
        events.append("forward")
        outside(lambda: events.append("sum up"))
        events.append("update")
        return "outputs"

    graph, outputs = CudaCapturer().capture(step)
    assert outputs == "outputs"
    first = ["begin graph 0", "forward", "end graph 0"]
    second = ["begin graph 1", "update", "end graph 1"]
    assert events == first + second  # nothing is summed up while the step is captured
    for _ in range(2):
        events.clear()
        graph.replay()
        assert events == ["replay graph 0", "sum up", "replay graph 1"]
    events.clear()
    step()
    assert events == ["forward", "sum up", "update"]  # no capture goes on any more


def test_a_step_without_a_cut_is_one_graph(recorder):
    graph, _ = CudaCapturer().capture(lambda: recorder.events.append("all"))
    graph.replay()
    expected = ["begin graph 0", "all", "end graph 0", "replay graph 0"]
    assert recorder.events == expected


@pytest.mark.parametrize("cut", [False, True])
def test_after_a_capture_that_fails_nothing_is_cut_any_more(recorder, cut):
    def step():
        if cut:
            outside(lambda: None)
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        CudaCapturer().capture(step)
    done = []
    outside(lambda: done.append("at once"))
    assert done == ["at once"]


def test_gradients_are_summed_outside_of_the_graphs(monkeypatch, recorder):
    """Ranks whose communication does as if the others' sum were twice this one's."""
    ranks, module = Ranks(), nn.Linear(2, 1)
    ranks.world = 2
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor, **_: tensor.mul_(3))

    def step(ranks):
        module.zero_grad(set_to_none=True)
        loss = module(torch.tensor([[1.0, 2.0], [3.0, -1.0]])).square().mean()
        loss.backward()
        loss = ranks.all_reduce_gradients(module, loss, share=0.5)
        return torch.cat([loss.flatten(), *(p.grad.flatten() for p in module.parameters())])

    alone, summed = step(Ranks()), step(ranks)
    torch.testing.assert_close(summed, 1.5 * alone)
    graph, unsummed = CudaCapturer().capture(lambda: step(ranks))
    torch.testing.assert_close(unsummed, 0.5 * alone)  # what the others have comes at a replay
    assert len(graph.parts) == 3


@pytest.mark.gpu
def test_a_graph_cut_in_two_on_cuda():
    """The action changes on the CPU what the second half reads; one rank, so no other's."""
    weight = torch.zeros(4, device="cuda")

    def step(x):
        doubled = 2 * x
        outside(lambda: doubled.copy_(doubled.cpu() + 1))
        weight.add_(doubled)
        return {"weight": weight.clone()}

    captured = CapturedStep(step, enabled=True)
    total = 0.0
    for value in range(WARM_UP + 4):
        total += 2 * value + 1
        out = captured(torch.full((4,), float(value), device="cuda"))["weight"]
        assert out.tolist() == [total] * 4
    assert len(captured.graph.parts) == 3
