"""The losses of the GAN against sums by hand."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inside_cnn.training.gan_losses import discriminator_loss, generator_loss


class Known(nn.Module):
    """Given scores and logits of each image, plus the gradient of a linear critic."""

    def __init__(self, scores, logits):
        super().__init__()
        self.scores, self.logits = nn.Parameter(scores), nn.Parameter(logits)

    def forward(self, x):
        # The images' sum enters with factor 1, so that |d score / d x| = sqrt(3 * 32 * 32).
        n = len(x)
        return self.scores[:n] + x.flatten(1).sum(1), self.logits[:n]


def test_discriminator_loss_by_hand():
    zeros = torch.zeros(2, 3, 32, 32)
    scores = torch.tensor([1.0, 3.0, -1.0, 0.0])  # two real, two fake
    logits = torch.zeros(4, 10)
    logits[0, 4], logits[2, 7] = 2.0, 5.0
    loss_of = partial(
        discriminator_loss,
        Known(scores, logits),
        real=zeros,
        labels=torch.tensor([4, 0]),
        fake=zeros,
        fake_labels=torch.tensor([7, 1]),
        alpha=torch.rand(2, 1, 1, 1),
        gp_weight=0.5,
    )
    loss, parts = loss_of()
    e = torch.exp
    # log(sum exp) - the chosen logit: no softmax before the cross-entropy.
    class_real = (torch.log(e(torch.tensor(2.0)) + 9) - 2 + torch.log(torch.tensor(10.0))) / 2
    class_fake = (torch.log(e(torch.tensor(5.0)) + 9) - 5 + torch.log(torch.tensor(10.0))) / 2
    penalty = ((3 * 32 * 32) ** 0.5 - 1) ** 2
    assert parts["critic_gap"].item() == pytest.approx(2.5)
    assert parts["class_loss_real"].item() == pytest.approx(class_real.item(), rel=1e-5)
    assert parts["class_loss_fake"].item() == pytest.approx(class_fake.item(), rel=1e-5)
    assert parts["gradient_penalty"].item() == pytest.approx(penalty, rel=1e-5)
    assert parts["gradient_norm"].item() == pytest.approx((3 * 32 * 32) ** 0.5, rel=1e-5)
    # The second logits are all equal, so the prediction is class 0: correct for label 0 only.
    assert parts["class_accuracy_real"].item() == 100
    assert parts["class_accuracy_fake"].item() == 50
    total = -2.5 + class_real + class_fake + 0.5 * penalty
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    less, _ = loss_of(fake_class_weight=0.25)
    assert less.item() == pytest.approx((total - 0.75 * class_fake).item(), rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


def test_generator_loss_by_hand():
    logits = torch.zeros(2, 10)
    logits[0, 3] = 1.0
    known = Known(torch.tensor([2.0, 4.0]), logits)
    loss, parts = generator_loss(known, torch.zeros(2, 3, 32, 32), torch.tensor([3, 0]))
    expected = F.cross_entropy(logits, torch.tensor([3, 0])).item()
    assert parts["generator_class_loss"].item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(-3 + expected)
    less, parts = generator_loss(known, torch.zeros(2, 3, 32, 32), torch.tensor([3, 0]), 0.1)
    assert less.item() == pytest.approx(-3 + 0.1 * expected)
    assert parts["generator_class_loss"].item() == pytest.approx(expected)
