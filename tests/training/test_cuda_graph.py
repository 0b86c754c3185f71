"""Captured steps: on a stand-in for CUDA's graphs, and (marked gpu) on the real ones."""

import functools
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

import train_gan
from discriminator import Discriminator
from generator import Generator
from training import panels
from training.augmentation import sample_shift
from training.cuda_graph import WARM_UP, CapturedStep
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
