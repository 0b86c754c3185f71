import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from compare import assert_equal
from discriminator import Discriminator
from generator import Generator
from inside_cnn.layers.accelerate import accelerate
from inside_cnn.training import stopping
from inside_cnn.training.optimizers import (
    Muon,
    keep_learning_rates_on,
    make_optimizer,
    newton_schulz,
)
from inside_cnn.training.schedules import set_learning_rates


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_zero_gradient_changes_nothing():
    assert newton_schulz(torch.zeros(2, 4, 3)).abs().max() == 0
    weight = nn.Parameter(of_norm_one_row(random(4, 3)))
    weight.grad = torch.zeros(4, 3)
    Muon([weight], lr=0.1).step()
    assert torch.allclose(weight, of_norm_one_row(random(4, 3)))


def of_norm_one_row(weight):
    """The weight scaled to the norm sqrt(rows), as each step of Muon leaves it."""
    return weight * (len(weight) ** 0.5 / weight.norm())


@pytest.mark.parametrize("shape", [(8, 6, 2, 2), (24, 2, 2, 2)])
def test_step_equals_torch_muon_except_for_the_norm(shape):
    """Both round to bf16, in their own order; torch takes matrices only."""
    start = of_norm_one_row(random(*shape))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    mine = Muon([ours], lr=0.02, momentum=0.9, dtype=torch.bfloat16)
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.0, nesterov=True)
    for seed in range(1, 5):
        ours.grad = random(*shape, seed=seed)
        theirs.grad = ours.grad.flatten(1)
        mine.step()
        reference.step()
        with torch.no_grad():
            theirs.copy_(of_norm_one_row(theirs))
    moved = (ours - start).norm()
    assert moved > 0.1
    assert (ours.flatten(1) - theirs).norm() < 0.02 * moved


def gradients(model, images, seed):
    scores, logits = model(images * (1 + seed))
    model.zero_grad()
    (scores.sum() + logits.square().sum()).backward()


@pytest.mark.parametrize(
    ("network", "kernels", "rest"), [(Discriminator, 8, 28), (Generator, 7, 27)]
)
def test_each_weight_has_one_optimizer(network, kernels, rest):
    model = network(width=4)
    groups = make_optimizer("muon", model, 1e-3, 0.02).param_groups
    assert [len(group["params"]) for group in groups] == [kernels, rest]
    assert all(weight.ndim == 4 for weight in groups[0]["params"])
    assert {id(w) for g in groups for w in g["params"]} == {id(w) for w in model.parameters()}


CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_guard_prevents_all_steps_after_a_bad_one(images, device):
    model = Discriminator(width=4).to(device)
    images = images.to(device)
    optimizer = make_optimizer("muon", model, 1e-3, 0.02)
    guard = stopping.FiniteGuard(torch.device(device), every=50)
    for number in range(1, 8):
        gradients(model, images, number)
        if number == 4:
            model.blocks[3][0].weight.grad[0, 0, 0, 0] = float("nan")
        guard.take_step(optimizer, torch.zeros((), device=device), number)
        if number == 3:
            good = {name: value.clone() for name, value in model.state_dict().items()}
            state = [b["momentum_buffer"].clone() for b in optimizer.optimizers[0].state.values()]
    # Where a GPU computes, only every 50th step reads the result.
    guard.every = 50
    assert [guard.bad_step(step) for step in (7, 50, None)] == [0, 4, 4]
    assert_equal(good, dict(model.state_dict()))
    assert_equal(state, [b["momentum_buffer"] for b in optimizer.optimizers[0].state.values()])


def test_learning_rates_on_the_device_give_the_same_steps(images):
    results = []
    for on_device in (False, True):
        torch.manual_seed(0)
        model = Discriminator(width=4)
        optimizer = make_optimizer("muon", model, 1e-3, 0.02)
        if on_device:
            keep_learning_rates_on(torch.device("cpu"), optimizer)
        places = [group["lr"] for group in optimizer.param_groups]
        for number in range(1, 4):
            set_learning_rates(optimizer, 1 / number)
            gradients(model, images, number)
            optimizer.step()
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        assert rates == pytest.approx([0.02 / 3, 1e-3 / 3])
        if on_device:  # a captured step reads the same tensors
            assert all(g["lr"] is p for g, p in zip(optimizer.param_groups, places, strict=True))
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_restored_moments_have_the_memory_layout_of_their_weights(images, kind):
    """Fused Adam ignores strides."""
    results = []
    for contiguous in (False, True):
        torch.manual_seed(0)
        model = accelerate(Discriminator(width=4))
        optimizer = make_optimizer(kind, model, 1e-3, 0.02)
        gradients(model, images, 1)
        optimizer.step()
        state = optimizer.state_dict()
        if contiguous:
            state = tree_map_only(torch.Tensor, torch.Tensor.contiguous, state)
        optimizer.load_state_dict(state)
        gradients(model, images, 2)
        optimizer.step()
        results.append(dict(model.state_dict()))
    assert_equal(*results)
