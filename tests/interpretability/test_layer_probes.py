import pytest
import torch
import torch.nn.functional as F

from inside_cnn.interpretability.layer_probes import (
    DECAY,
    class_auc,
    distinct,
    fit_probe,
    linear_cka,
    probe_accuracy,
    stand_out,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_probe_decodes_a_code_but_not_noise():
    labels = torch.arange(200) % 10
    code = F.one_hot(labels, 10).float() @ random(10, 6, seed=1)
    same = code + 0.01 * random(200, 6, seed=2)
    assert probe_accuracy(code, labels, same, labels, 10) == 100
    shifted = (labels + 1) % 10
    assert probe_accuracy(code, labels, same, shifted, 10) == 0
    noise, other = random(2000, 6, seed=3), random(2000, 6, seed=4)
    many = torch.arange(2000) % 10
    assert probe_accuracy(noise, many, other, many, 10) == pytest.approx(10, abs=3)


def test_probe_is_the_optimum_of_its_loss():
    """The gradient is zero there; a probe that stops early or ignores the decay differs."""
    x = random(60, 3).double()
    labels = (x[:, 0] + 0.5 * random(60, seed=1) > 0).long()
    weight, bias = fit_probe(x, labels, 2)
    weight.requires_grad_(), bias.requires_grad_()
    loss = F.cross_entropy(x @ weight + bias, labels) + DECAY * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(g.abs().max() for g in gradients) < 1e-5
    assert weight.abs().max() > 0.1


def test_auc_of_classes_by_hand():
    """Equal values count half; a positive factor and an offset do not matter."""
    features = torch.tensor(
        [[3.0, 0.0, -1.0], [1.0, 0.0, -2.0], [2.0, 0.0, -3.0], [1.0, 1.0, -4.0]]
    )
    labels = torch.tensor([1, 1, 0, 0])
    auc = class_auc(features, labels, 3)
    assert auc[1].tolist() == [0.625, 0.25, 1.0]  # 2 1/2, 1 and 4 of 4 pairs
    assert auc[0].tolist() == [0.375, 0.75, 0.0]
    assert auc[2].tolist() == [0.5] * 3  # no images
    assert torch.equal(class_auc(0.1 * features + 7, labels, 3), auc)
    assert torch.equal(class_auc(-features, labels, 3), 1 - auc)


def test_rare_features_do_not_separate_a_class_by_chance():
    labels = torch.arange(1000) % 10
    fires = torch.rand(1000, 200, generator=torch.Generator().manual_seed(0)) < 0.015
    assert class_auc(fires.float(), labels, 10).max() < 0.6


def test_cka():
    x = random(50, 4)
    assert linear_cka(x, x) == pytest.approx(1)
    turned, _ = torch.linalg.qr(random(4, 4, seed=1))
    assert linear_cka(x, 3 * x @ turned + 7) == pytest.approx(1)
    assert linear_cka(x, x[:, :1] * random(1, 9, seed=2)) < 0.9
    assert linear_cka(random(5000, 4), random(5000, 3, seed=1)) < 0.01
    # A feature of large variance decides alone, unless the features are standardized.
    loud = torch.cat([100 * random(50, 1, seed=4), random(50, 3, seed=5)], dim=1)
    other = torch.cat([loud[:, :1], random(50, 3, seed=6)], dim=1)
    assert linear_cka(loud, other) > 0.99
    assert linear_cka(loud, other, standardize=True) < 0.6
    scaled = x * torch.tensor([1.0, 9.0, 3.0, 0.1])
    assert linear_cka(x, scaled, standardize=True) == pytest.approx(1)
    # One column each: the squared correlation.
    y = x[:, :1] + random(50, 1, seed=3)
    expected = torch.corrcoef(torch.cat([x[:, :1], y], dim=1).T)[0, 1] ** 2
    assert linear_cka(x[:, :1], y) == pytest.approx(expected.item(), rel=1e-5)


def test_stand_out():
    rare, even = torch.zeros(1000), torch.linspace(-1, 1, 1000)
    rare[:9] = 1
    measure = stand_out(torch.stack([rare, even, torch.full((1000,), 2.0)], dim=1))
    assert measure[0] > 8
    assert measure[1] == pytest.approx(3**0.5, abs=0.05)  # of a uniform distribution
    assert measure[2] == 0


def test_distinct_omits_correlated_features():
    a, b = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    features = torch.stack([a, 2 * a + 3, -a, b, a + 0.2 * b, torch.zeros(500)], dim=1)
    measure = torch.tensor([5.0, 6.0, 4.0, 3.0, 9.0, 0.0])
    assert distinct(features, measure, 6).tolist() == [4, 3, 5]
    assert distinct(features, measure, 2).tolist() == [4, 3]
