"""Recorded steps: on a stand-in for CUDA's graphs, and (marked gpu) on the real ones."""

import contextlib
import copy
import types

import pytest
import torch

import train_gan
from discriminator import Discriminator
from generator import Generator
from layers.modules import prepare_for_cuda
from training.cuda_graph import WARM_UP, Recorded
from training.distributed import Ranks
from training.optimizers import keep_rates_on, make_optimizer, scale_rates
from training.stopping import FiniteGuard


class StandIn:
    """torch.cuda for the CPU: a graph's replay runs what was recorded again, in place."""

    def __init__(self, fails=False):
        self.replays, self.fails = 0, fails
        stream = types.SimpleNamespace(wait_stream=lambda _: None)
        self.Stream = self.current_stream = lambda: stream
        self.stream = lambda _: contextlib.nullcontext()
        self.set_stream = lambda chosen: self.chosen.append(chosen)
        self.chosen, self.current = [], stream
        self.CUDAGraph = lambda: types.SimpleNamespace(replay=self.replay)

    @contextlib.contextmanager
    def graph(self, _graph, stream):
        yield
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def replay(self):
        self.replays += 1
        self.recorded.outputs.copy_(self.recorded.function(*self.recorded.inputs))


@pytest.fixture
def recorded(monkeypatch):
    """recorded(fails=False): (a Recorded that doubles its argument, the stand-in)."""

    def make(fails=False):
        cuda = StandIn(fails)
        monkeypatch.setattr(torch, "cuda", cuda)
        cuda.recorded = Recorded(lambda x: 2 * x, enabled=True)
        return cuda.recorded, cuda

    return make


def test_records_after_the_warm_up_and_then_replays(recorded):
    double, cuda = recorded()
    for value in range(WARM_UP + 4):
        assert double(torch.full((3,), float(value))).tolist() == [2.0 * value] * 3
    assert cuda.replays == 4


def test_other_shapes_take_the_plain_way(recorded):
    double, cuda = recorded()
    for value in range(WARM_UP + 1):
        double(torch.full((3,), float(value)))
    assert double(torch.ones(2)).tolist() == [2.0, 2.0]
    assert cuda.replays == 1
    assert double(torch.ones(3)).tolist() == [2.0] * 3
    assert cuda.replays == 2


def test_a_smaller_batch_during_the_warm_up_is_not_what_is_recorded(recorded):
    double, _ = recorded()
    for _ in range(WARM_UP):
        double(torch.ones(3))
    double(torch.ones(2))
    assert double.graph is None
    for _ in range(WARM_UP + 1):
        double(torch.ones(3))
    assert double.inputs[0].shape == (3,)


def test_where_cuda_refuses_the_recording_the_step_still_runs(recorded, capsys):
    double, cuda = recorded(fails=True)
    for value in range(WARM_UP + 3):
        assert double(torch.full((3,), float(value))).tolist() == [2.0 * value] * 3
    told = capsys.readouterr().err
    assert told.count("note: no CUDA graph of") == 1
    assert "operation not permitted when stream is capturing\n" in told
    assert cuda.chosen == [cuda.current]
    assert cuda.replays == 0


def test_without_cuda_it_is_the_function():
    calls = []
    plain = Recorded(lambda *tensors: calls.append(tensors), enabled=False)
    plain(torch.ones(1), torch.ones(2))
    assert [t.shape for t in calls[0]] == [(1,), (2,)]


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.1), ("bf16", 0.5)])
def test_recorded_updates_agree_with_plain_ones_on_cuda(precision, tolerance):
    """How far the weights have moved after the recording; one batch on the way is smaller."""
    device = torch.device("cuda")
    args = types.SimpleNamespace(
        gp_weight=10.0, d_fake_class_weight=1.0, g_class_weight=1.0, gen_train=1, ema_decay=0.9
    )
    ends = []
    for fast in (False, True):
        torch.manual_seed(0)
        discriminator, generator = Discriminator(20).to(device), Generator(20).to(device)
        for network in (discriminator, generator):
            prepare_for_cuda(network, device if fast else None)
        average = copy.deepcopy(generator)
        networks = discriminator, generator, average
        optimizers = [
            make_optimizer("muon", network, 1e-3, 0.02, normalise=True)
            for network in (discriminator, generator)
        ]
        for optimizer in optimizers:
            keep_rates_on(device, optimizer)
        updates = train_gan.make_updates(
            *(args, precision, Ranks(device), FiniteGuard(device)), *networks, *optimizers
        )
        update_d, update_g = (Recorded(update, fast) for update in updates)
        for step in range(1, 15):
            count = 8 if step == 9 else 16
            stream = torch.Generator(device).manual_seed(step)
            for optimizer in optimizers:
                scale_rates(optimizer, 1 - step / 20)
            real = 2 * torch.rand(count, 3, 32, 32, generator=stream, device=device) - 1
            labels, latents = train_gan.sample_inputs(count, 100, stream)
            mix = train_gan.sample_mix(count, device, stream)
            shifts = train_gan.sample_shift(count, stream)
            number = torch.full((), step, device=device)
            update_d(number, real, labels, latents, labels, mix, *shifts)
            update_g(number, latents, labels, *shifts)
            if step == WARM_UP + 2:
                before = [weights_of(network) for network in networks]
        assert (update_d.graph is not None) == (update_g.graph is not None) == fast
        ends.append([weights_of(network) for network in networks])
    for start, plain, recorded in zip(before, *ends, strict=True):
        assert (recorded - plain).norm() < tolerance * (plain - start).norm()


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])
