"""What happens at a chosen step of a run in this process, and what was seen at each step.

Through torch's own global hooks: nothing of the scripts is replaced.
"""

import contextlib
import os
import signal

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook


def learns(module, kind):
    """Whether the pass of `module` that runs now is one in which a network of that class learns."""
    return type(module) is kind and module.training and torch.is_grad_enabled()


@contextlib.contextmanager
def at_pass(kind, actions):
    """Call actions[n](), where there is one, just before the n-th pass in which a `kind` learns.

    A step of train_gan.py has one pass in which the Generator learns (with --gen_train 1), a step
    of train_discriminator.py one in which the Discriminator does: there n is the step, from 1.
    """
    passes = 0

    def before(module, _inputs):
        nonlocal passes
        if learns(module, kind):
            passes += 1
            actions.get(passes, lambda: None)()

    with _registered(register_module_forward_pre_hook, before):
        yield


def signal_at_pass(kind, n, signal_number):
    """Send this process a signal in the n-th such pass. As at_pass."""

    def send():
        handler = signal.getsignal(signal_number)
        assert handler not in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler), (
            "the run does not handle the signal: it would end the tests"
        )
        os.kill(os.getpid(), signal_number)

    return at_pass(kind, {n: send})


@contextlib.contextmanager
def nan_input(network, kind, after):
    """NaN in place of what one learning pass of a `network` is given: its first after `after`
    passes in which a `kind` learnt. A pass on what the other network drew does not count."""
    done, poisoned = 0, False

    def before(module, inputs):
        nonlocal done, poisoned
        given = learns(module, network) and not inputs[0].requires_grad
        poison = given and done == after and not poisoned
        done += learns(module, kind)
        poisoned = poisoned or poison
        return (inputs[0] * float("nan"), *inputs[1:]) if poison else None

    with _registered(register_module_forward_pre_hook, before):
        yield
    assert poisoned


@contextlib.contextmanager
def inputs_of(kind):
    """A list that receives the input of every pass in which a `kind` learns."""
    seen = []

    def before(module, inputs):
        if learns(module, kind):
            seen.append(inputs[0].detach().clone())

    with _registered(register_module_forward_pre_hook, before):
        yield seen


@contextlib.contextmanager
def outputs_of(kind):
    """A list that receives what networks of that class return while they are in train mode."""
    seen = []

    def after(module, _inputs, output):
        if type(module) is kind and module.training:
            seen.append(output.detach().clone())

    with _registered(register_module_forward_hook, after):
        yield seen


@contextlib.contextmanager
def drawn_instead(kind, images, switch):
    """While switch["on"], a `kind` that is not in train mode returns `images`, repeated."""

    def after(module, _inputs, output):
        if switch["on"] and type(module) is kind and not module.training:
            return images.repeat(-(-len(output) // len(images)), 1, 1, 1)[: len(output)]
        return None

    with _registered(register_module_forward_hook, after):
        yield


@contextlib.contextmanager
def rates_taken():
    """A list that receives, at each step of an optimizer of torch's kind, its learning rates."""
    seen = []

    def before(optimizer, _args, _kwargs):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])

    with _registered(register_optimizer_step_pre_hook, before):
        yield seen


@contextlib.contextmanager
def _registered(register, hook):
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()
