"""Captured steps: on a stand-in for CUDA's graphs, and (marked gpu) on the real ones."""

import contextlib
import functools
from argparse import Namespace
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn

import train_gan
from discriminator import Discriminator
from generator import Generator
from training import distributed, panels
from training.augmentation import sample_shift
from training.cuda_graph import WARM_UP, CapturedStep, CudaCapturer, outside
from training.distributed import Ranks
from training.ema import EMA
from training.optimizers import keep_learning_rates_on, make_optimizer
from training.run import TrainingRun
from training.schedules import set_learning_rates


class StandIn:
    """A capturer for the CPU: a replay runs the captured function again and fills its outputs.

    state: tensors that the function changes; a capture leaves them as they are, as CUDA's does.
    """

    def __init__(self, refuses=None, state=()):
        self.refuses, self.state = refuses, state
        self.plain_calls = self.captures = self.replays = 0

    def call(self, function):
        self.plain_calls += 1
        return function()

    def capture(self, function):
        self.captures += 1
        if self.refuses is not None:
            raise self.refuses
        before = [tensor.clone() for tensor in self.state]
        self.function, self.outputs = function, function()
        for tensor, value in zip(self.state, before, strict=True):
            tensor.copy_(value)
        return self, self.outputs

    def replay(self):
        self.replays += 1
        for name, value in self.function().items():
            self.outputs[name].copy_(value)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None


def double(x):
    return {"twice": 2 * x}


def value_of(x, shape=(3,)):
    return torch.full(shape, float(x))


@pytest.fixture
def doubling():
    """(a CapturedStep that doubles its argument, its capturer)."""
    capturer = StandIn()
    return CapturedStep(double, enabled=True, capturer=capturer), capturer


def test_captures_after_the_warm_up_and_then_replays(doubling):
    step, capturer = doubling
    for value in range(WARM_UP + 4):
        assert step(value_of(value))["twice"].tolist() == [2.0 * value] * 3
    assert (capturer.plain_calls, capturer.captures, capturer.replays) == (WARM_UP, 1, 4)


def test_every_call_takes_one_step():
    """The capture itself takes none."""
    weight = torch.zeros(())

    def descend(gradient):
        weight.sub_(gradient)
        return {"weight": weight}

    step = CapturedStep(descend, enabled=True, capturer=StandIn(state=[weight]))
    for count in range(1, WARM_UP + 4):
        step(torch.ones(()))
        assert weight == -count


def test_the_arguments_may_change_after_the_call(doubling):
    """A graph reads its own copies: what a caller does to its tensors does not reach it."""
    step, _ = doubling
    argument = torch.ones(3)
    for _ in range(WARM_UP + 1):
        step(argument)
    argument.fill_(7)
    assert step(torch.zeros(3))["twice"].tolist() == [0.0] * 3
    assert argument.tolist() == [7.0] * 3


def test_outputs_are_overwritten_by_the_next_call(doubling):
    step, _ = doubling
    for value in range(WARM_UP + 1):
        outputs = step(value_of(value))
    step(value_of(9))
    assert outputs["twice"].tolist() == [18.0] * 3


def test_other_shapes_and_types_take_the_plain_way(doubling):
    step, capturer = doubling
    for value in range(WARM_UP + 1):
        step(value_of(value))
    for other in (torch.ones(2), torch.ones(3, dtype=torch.float64)):
        outputs = step(other)["twice"]
        assert outputs.tolist() == (2 * other).tolist()
        assert outputs.dtype == other.dtype
    assert capturer.replays == 1
    assert step(torch.ones(3))["twice"].tolist() == [2.0] * 3
    assert capturer.replays == 2


def test_a_smaller_batch_during_the_warm_up_is_not_what_is_captured(doubling):
    step, capturer = doubling
    for shape in [(3,)] * WARM_UP + [(2,)] + [(3,)] * WARM_UP:
        step(torch.ones(shape))
    assert capturer.captures == 0
    step(torch.ones(3))
    assert (capturer.captures, capturer.replays) == (1, 1)
    step(torch.ones(2))
    assert capturer.replays == 1


def test_named_tuples_and_none_reach_the_function_as_they_are():
    """The same results, whichever way the call goes, for arguments by place and by name."""
    seen = []

    def combine(x, pair, *, shifts=None, absent=None):
        seen.append((type(pair), pair.second, type(shifts), absent))
        total = x + pair.first + (0 if shifts is None else shifts.down - 2 * shifts.right)
        return {"total": total}

    capturer = StandIn()
    step = CapturedStep(combine, enabled=True, capturer=capturer)
    for value in range(WARM_UP + 3):
        shifts = sample_shift(3, torch.Generator().manual_seed(value))
        x, pair = value_of(value), Pair(value_of(10 * value), None)
        total = step(x, pair, shifts=shifts, absent=None)["total"]
        assert torch.equal(total, 11.0 * value + shifts.down - 2 * shifts.right)
    assert capturer.replays == 3
    assert set(seen) == {(Pair, None, type(shifts), None)}


@pytest.mark.parametrize("other", [{"shifts": None}, {"pair": Pair(torch.zeros(3), None)}])
def test_arguments_of_another_form_are_not_replayed(other):
    def combine(pair, shifts):
        second = 0 if pair.second is None else pair.second
        return {"total": pair.first + second + (0 if shifts is None else shifts.down)}

    capturer = StandIn()
    step = CapturedStep(combine, enabled=True, capturer=capturer)
    shifts = sample_shift(3, torch.Generator().manual_seed(0))
    usual = {"pair": Pair(torch.ones(3), torch.ones(3)), "shifts": shifts}
    for _ in range(WARM_UP + 1):
        step(**usual)
    assert capturer.replays == 1
    assert torch.equal(step(**usual | other)["total"], combine(**usual | other)["total"])
    assert capturer.replays == 1


def test_names_in_another_order_are_the_same_arguments():
    def subtract(a, b):
        return {"difference": a - b}

    step = CapturedStep(subtract, enabled=True, capturer=StandIn())
    for _ in range(WARM_UP + 1):
        step(a=value_of(5), b=value_of(3))
    for _ in range(WARM_UP + 1):
        assert step(b=value_of(3), a=value_of(5))["difference"].tolist() == [2.0] * 3


@pytest.mark.parametrize("other", [3, 0.5, (torch.ones(3),)])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_number_is_refused_before_a_graph_repeats_it_for_ever(enabled, other):
    step = CapturedStep(lambda x, other: {"x": x}, enabled, StandIn())
    with pytest.raises(TypeError, match="NamedTuples of tensors"):
        step(torch.ones(3), other)


@pytest.mark.parametrize(
    ("function", "name"),
    [(double, "double"), (functools.partial(functools.partial(double)), "double")],
)
def test_where_cuda_refuses_the_capture_the_step_still_runs(capsys, function, name):
    refuses = RuntimeError("operation not permitted when stream is capturing\nmore")
    capturer = StandIn(refuses=refuses)
    step = CapturedStep(function, enabled=True, capturer=capturer)
    for value in range(WARM_UP + 3):
        assert step(value_of(value))["twice"].tolist() == [2.0 * value] * 3
    reason = "operation not permitted when stream is capturing"
    assert capsys.readouterr().err == f"note: no CUDA graph of {name}: {reason}\n"
    assert (capturer.captures, capturer.replays) == (1, 0)


def test_the_notice_tells_the_first_of_two_errors(capsys):
    """Where a capture fails half way, CUDA's complaint at its end hides the cause."""
    refuses = RuntimeError("capture was invalidated")
    refuses.__context__ = RuntimeError("the cause")
    step = CapturedStep(double, enabled=True, capturer=StandIn(refuses=refuses))
    for _ in range(WARM_UP + 1):
        step(torch.ones(3))
    assert capsys.readouterr().err == "note: no CUDA graph of double: the cause\n"


def test_where_it_is_not_enabled_it_is_the_function():
    capturer = StandIn()
    step = CapturedStep(double, enabled=False, capturer=capturer)
    for value in range(WARM_UP + 3):
        assert step(x=value_of(value))["twice"].tolist() == [2.0 * value] * 3
    assert (capturer.plain_calls, capturer.captures, capturer.replays) == (0, 0, 0)


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
        out = captured(value_of(value, (4,)).cuda())["weight"]
        assert out.tolist() == [total] * 4
    assert len(captured.graph.parts) == 3


@pytest.fixture
def nccl_alone(tmp_path):
    """NCCL's group of this process alone."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", world_size=1, rank=0)
    yield dist.new_group(backend="nccl")
    dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.1), ("bf16", 0.5)])
def test_captured_updates_agree_with_plain_ones_on_cuda(nccl_alone, precision, tolerance, cut):
    """How far the weights have moved after the capture; one batch on the way is smaller.

    cut: by an all-reduce that takes this process for one of two, and its gradients by half.
    """
    ends = []
    for compiling in ("off", "auto"):
        flags = ["--device", "cuda", "--precision", precision, "--compile", compiling]
        args = train_gan.parse_args([*flags, "--d_fake_class_weight", "1", "--ema_decay", "0.9"])
        with TrainingRun(args, "train_gan.py", panels.GAN) as run:
            if cut:
                run.ranks.world, run.ranks._device_group = 2, nccl_alone
            torch.manual_seed(0)
            networks = Discriminator(20).to(run.device), Generator(20).to(run.device)
            ema = EMA(networks[1], args.ema_decay)
            optimizers = [
                make_optimizer("muon", network, 1e-3, 0.02, normalize=True) for network in networks
            ]
            for optimizer in optimizers:
                keep_learning_rates_on(run.device, optimizer)
            run.prepare(*networks, *optimizers)
            of_d = functools.partial(
                train_gan.update_discriminator, run, args, *networks, optimizers[0]
            )
            of_g = functools.partial(
                train_gan.update_generator, run, args, *networks, ema, optimizers[1]
            )
            update_d, update_g = run.captured(of_d), run.captured(of_g)
            weights = [*networks, ema.model]
            for step in range(1, 15):
                count = 8 if step == 9 else 16
                stream = torch.Generator(run.device).manual_seed(step)
                for optimizer in optimizers:
                    set_learning_rates(optimizer, 1 - step / 20)
                real = 2 * torch.rand(count, 3, 32, 32, generator=stream, device=run.device) - 1
                labels, z = train_gan.sample_inputs(count, 100, stream)
                alpha = train_gan.sample_alpha(count, run.device, stream)
                shifts = sample_shift(count, stream)
                number = torch.full((), step, device=run.device)
                update_d(number, real, labels, z, labels, alpha, shifts)
                update_g(number, z, labels, shifts)
                if step == WARM_UP + 2:
                    before = [weights_of(network) for network in weights]
            captured = compiling == "auto"
            for update in (update_d, update_g):
                parts = update.graph.parts if update.graph else ()
                assert len(parts) == captured * (3 if cut else 1)
            run.ranks.world = 1
            ends.append([weights_of(network) for network in weights])
    for start, plain, captured in zip(before, *ends, strict=True):
        assert (captured - plain).norm() < tolerance * (plain - start).norm()


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])
