import pytest
import torch
import torch.nn.functional as F
from torch import nn

import data_tools
from inside_cnn.interpretability.critic_score import (
    auc,
    baseline_sets,
    blurred,
    score_section,
    shuffled_patches,
)
from networks import as_network


@pytest.fixture(scope="module")
def images():
    return data_tools.load_shapes()[1].first(60).images


def test_auc_by_hand():
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1
    assert auc(torch.tensor([0.0]), torch.tensor([1.0, 2.0])) == 0
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == (0.5 + 0 + 1 + 1) / 4
    same = torch.randn(500)
    assert auc(same, same) == pytest.approx(0.5)


def test_shuffled_patches_are_a_permutation_of_the_patches(images):
    shuffled = shuffled_patches(images, torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, images)
    before, after = (F.unfold(x.float(), 8, stride=8).mT.tolist() for x in (images, shuffled))
    assert list(map(sorted, before)) == list(map(sorted, after))


def test_blur_keeps_the_mean_and_removes_detail(images):
    flat = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    assert torch.equal(blurred(flat), flat)
    soft = blurred(images).float()
    assert soft.mean().item() == pytest.approx(images.float().mean().item(), rel=0.02)
    edges = [(x[..., 1:] - x[..., :-1]).abs().mean() for x in (soft, images.float())]
    assert edges[0] < 0.5 * edges[1]


class Brightness(nn.Module):
    """A critic whose score is the mean pixel, in [-1, 1]."""

    width = num_classes = 2

    def forward(self, x):
        score = x.mean((1, 2, 3))
        return score, torch.stack([score, score], 1)


def test_scores_of_a_known_critic(images, tmp_path):
    bright = torch.full_like(images[:5], 255)
    sets = {"test images": images, "bright": bright, **baseline_sets(images)}
    metrics = score_section(as_network(Brightness(), "with G"), sets, tmp_path)
    assert metrics["bright"]["mean"] == 1
    assert metrics["bright"]["auc"] == 0
    assert metrics["test images"]["auc"] == pytest.approx(0.5)
    shuffled = metrics["test images, patches shuffled"]
    assert shuffled["mean"] == metrics["test images"]["mean"]
    assert abs(metrics["uniform noise"]["mean"]) < 0.01
    assert metrics["gray"]["images"] == 1
    assert (tmp_path / "critic_score_with_G.png").exists()


def test_scores_of_single_images(images, tmp_path):
    metrics = score_section(as_network(Brightness()), {"test images": images[:1]}, tmp_path)
    assert metrics["test images"]["auc"] == 0.5
    assert not list(tmp_path.iterdir())
