"""Captured steps: with a stand-in for CUDA graphs, and (marked gpu) with CUDA."""

from typing import NamedTuple

import pytest
import torch

import train_gan
from inside_cnn.training import panels
from inside_cnn.training.cuda_graph import WARM_UP, CapturedStep
from inside_cnn.training.optimizers import keep_learning_rates_on
from inside_cnn.training.run import TrainingRun
from inside_cnn.training.schedules import set_learning_rates


class StandIn:
    """A capturer for the CPU: a replay runs the captured function again and fills its outputs."""

    def __init__(self, refuses=None):
        self.refuses = refuses
        self.plain_calls = self.captures = self.replays = 0

    def call(self, function, *args):
        self.plain_calls += 1
        return function(*args)

    def capture(self, function, *args):
        self.captures += 1
        if self.refuses is not None:
            raise self.refuses
        self.function, self.args, self.outputs = function, args, function(*args)
        return self, self.outputs

    def replay(self):
        self.replays += 1
        for name, value in self.function(*self.args).items():
            self.outputs[name].copy_(value)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None


def double(x):
    return {"twice": 2 * x}


def value_of(x):
    return torch.full((3,), float(x))


@pytest.fixture
def doubling():
    """(a CapturedStep that doubles its argument, its capturer)."""
    capturer = StandIn()
    return CapturedStep(double, enabled=True, capturer=capturer), capturer


def test_capture_after_the_warm_up_and_replay(doubling):
    """Each call executes the function once; the argument may change afterwards."""
    step, capturer = doubling
    argument = torch.zeros(3)
    for value in range(WARM_UP + 4):
        assert step(argument.fill_(value))["twice"].tolist() == [2.0 * value] * 3
    assert (capturer.plain_calls, capturer.captures, capturer.replays) == (WARM_UP, 1, 4)
    argument.fill_(7)
    assert step(torch.zeros(3))["twice"].tolist() == [0.0] * 3
    assert argument.tolist() == [7.0] * 3


def test_other_shapes_and_types_are_not_replayed(doubling):
    step, capturer = doubling
    for shape in [(3,)] * WARM_UP + [(2,)] + [(3,)] * WARM_UP:
        step(torch.ones(shape))
    assert capturer.captures == 0  # the smaller batch restarts the warm-up
    step(torch.ones(3))
    for other in (torch.ones(2), torch.ones(3, dtype=torch.float64)):
        outputs = step(other)["twice"]
        assert outputs.tolist() == (2 * other).tolist()
        assert outputs.dtype == other.dtype
    assert capturer.replays == 1
    assert step(torch.ones(3))["twice"].tolist() == [2.0] * 3
    assert capturer.replays == 2


def test_named_tuples_and_none_are_arguments():
    def combine(x, pair):
        assert isinstance(pair, Pair)
        return {"total": x + pair.first + (0 if pair.second is None else pair.second)}

    def args(value, second=None):
        return value_of(value), Pair(value_of(10 * value), second)

    capturer = StandIn()
    step = CapturedStep(combine, enabled=True, capturer=capturer)
    for value in range(WARM_UP + 3):
        assert step(*args(value))["total"].tolist() == [11.0 * value] * 3
    assert step(*args(1, second=torch.ones(3)))["total"].tolist() == [12.0] * 3
    assert capturer.replays == 3


def test_a_refused_capture_falls_back_to_the_function(capsys):
    refuses = RuntimeError("capture was invalidated")
    refuses.__context__ = RuntimeError("operation not permitted when stream is capturing\nmore")
    capturer = StandIn(refuses=refuses)
    step = CapturedStep(double, enabled=True, capturer=capturer)
    for value in range(WARM_UP + 3):
        assert step(value_of(value))["twice"].tolist() == [2.0 * value] * 3
    reason = "operation not permitted when stream is capturing"
    assert capsys.readouterr().err == f"note: no CUDA graph of double: {reason}\n"
    assert (capturer.captures, capturer.replays) == (1, 0)


def test_several_processes_do_not_capture():
    args = train_gan.parse_args(["--device", "cpu"])
    with TrainingRun(args, "train_gan.py", panels.GAN) as run:
        run.compiled, run.ranks.world = True, 2
        step = run.captured(double)
        run.ranks.world = 1
    for value in range(WARM_UP + 3):
        assert step(value_of(value))["twice"].tolist() == [2.0 * value] * 3
    assert step.graph is None


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.1), ("bf16", 0.5)])
def test_captured_updates_agree_with_plain_ones_on_cuda(precision, tolerance):
    """The change of the weights after the capture, with one smaller batch."""
    ends = []
    for compiling in ("off", "auto"):
        flags = ["--device", "cuda", "--precision", precision, "--compile", compiling]
        flags += ["--width", "20", "--d_fake_class_weight", "1", "--ema_decay", "0.9"]
        args = train_gan.parse_args(flags)
        with TrainingRun(args, "train_gan.py", panels.GAN) as run:
            gan = train_gan.GAN(run, args)
            optimizers = gan.d_optimizer, gan.g_optimizer
            for optimizer in optimizers:
                keep_learning_rates_on(run.device, optimizer)
            update_d = run.captured(gan.update_discriminator)
            update_g = run.captured(gan.update_generator)
            weights = gan.discriminator, gan.generator, gan.ema.model
            for step in range(1, 15):
                args.batch_size = 8 if step == 9 else 16
                stream = torch.Generator(run.device).manual_seed(step)
                for optimizer in optimizers:
                    set_learning_rates(optimizer, 1 - step / 20)
                shape = args.batch_size, 3, 32, 32
                real = 2 * torch.rand(shape, generator=stream, device=run.device) - 1
                inputs = train_gan.sample_fake_inputs(run, args, 10, stream, penalty=True)
                number = torch.full((), step, device=run.device)
                update_d(number, (real, inputs.labels), inputs)
                update_g(number, (real, inputs.labels), inputs._replace(alpha=None))
                if step == WARM_UP + 2:
                    before = [weights_of(network) for network in weights]
            for update in (update_d, update_g):
                assert (update.graph is not None) == (compiling == "auto")
            ends.append([weights_of(network) for network in weights])
    for start, plain, captured in zip(before, *ends, strict=True):
        assert (captured - plain).norm() < tolerance * (plain - start).norm()


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])
