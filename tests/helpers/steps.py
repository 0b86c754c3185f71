"""Actions at a step of a run in this process, and records of steps, with torch's global hooks."""

import contextlib
import os
import signal

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook


def learns(module, kind):
    """Whether the current pass of `module` is a training pass of a network of that class."""
    return type(module) is kind and module.training and torch.is_grad_enabled()


@contextlib.contextmanager
def at_pass(kind, actions):
    """Call actions[n](), if there is one, before the n-th training pass of a `kind`.

    The Generator has one per step of train_gan.py (with --gen_train 1), the Discriminator one per
    step of train_discriminator.py: there n is the step, from 1.
    """
    passes = 0

    def before(module, _inputs):
        nonlocal passes
        if learns(module, kind):
            passes += 1
            actions.get(passes, lambda: None)()

    with register_module_forward_pre_hook(before):
        yield


def signal_at_pass(kind, n, signal_number):
    """Send this process a signal before the n-th training pass. As at_pass."""

    def send():
        handler = signal.getsignal(signal_number)
        assert callable(handler)  # else the signal would end the tests
        assert handler is not signal.default_int_handler
        os.kill(os.getpid(), signal_number)

    return at_pass(kind, {n: send})


@contextlib.contextmanager
def nan_input(network, kind, after):
    """NaN inputs of a training pass of a `network`: the first one, of inputs without a gradient,
    after `after` training passes of a `kind`."""
    done, poisoned = 0, False

    def before(module, inputs):
        nonlocal done, poisoned
        given = learns(module, network) and not inputs[0].requires_grad
        poison = given and done == after and not poisoned
        done += learns(module, kind)
        poisoned = poisoned or poison
        return (inputs[0] * float("nan"), *inputs[1:]) if poison else None

    with register_module_forward_pre_hook(before):
        yield
    assert poisoned


@contextlib.contextmanager
def inputs_of(kind):
    """A list that receives the input of every training pass of a `kind`."""
    seen = []

    def before(module, inputs):
        if learns(module, kind):
            seen.append(inputs[0].detach().clone())

    with register_module_forward_pre_hook(before):
        yield seen


@contextlib.contextmanager
def outputs_of(kind):
    """A list that receives the outputs of networks of that class in train mode."""
    seen = []

    def after(module, _inputs, output):
        if type(module) is kind and module.training:
            seen.append(output.detach().clone())

    with register_module_forward_hook(after):
        yield seen


@contextlib.contextmanager
def samples_replaced(kind, images, switch):
    """While switch["on"], a `kind` in eval mode returns `images`, repeated."""

    def after(module, _inputs, output):
        if switch["on"] and type(module) is kind and not module.training:
            return images[torch.arange(len(output)) % len(images)]
        return None

    with register_module_forward_hook(after):
        yield


@contextlib.contextmanager
def rates_taken():
    """A list that receives the learning rates at each step of an optimizer."""
    seen = []

    def before(optimizer, _args, _kwargs):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])

    with register_optimizer_step_pre_hook(before):
        yield seen
