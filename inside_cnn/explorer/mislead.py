"""Perturb an image on one network and see what both then say. What the first tab computes."""

from dataclasses import dataclass

import torch

from inside_cnn.interpretability.adversarial import perturb


@dataclass
class Misled:
    """image, perturbed: uint8 (3, 32, 32); said_before, said_after: {network: (critic score,
    probabilities (k,))}.
    """

    image: torch.Tensor
    perturbed: torch.Tensor
    said_before: dict
    said_after: dict


def mislead(session, image, label, *, epsilon, attack, targeted, target, aimed_at):
    """One image, perturbed by the gradients of one network, and as a picture file judged by both.

    image: uint8 (3, 32, 32); label: its class, or None: then what the network names is left;
    epsilon: in whole levels, 0 changes nothing; attack: as in `perturb`; target: the class to
    reach, if `targeted`; aimed_at: name of the network.
    """
    image = image.to(session.device)
    network = session.network(aimed_at)
    before = session.judge_one(image.float())
    if targeted:
        classes = torch.tensor([target])
    elif label is None:
        classes = before[network.name][1].argmax()[None]
    else:
        classes = torch.tensor([label])
    (perturbed,) = perturb(
        network, image[None], classes.to(image.device), epsilon, attack, targeted=targeted
    )
    perturbed = perturbed.round()
    after = session.judge_one(perturbed)
    return Misled(image.cpu(), perturbed.to(torch.uint8).cpu(), before, after)


def enlarged(misled):
    """The perturbation on grey, its largest change at full contrast: uint8 (3, 32, 32), factor."""
    change = misled.perturbed.float() - misled.image.float()
    factor = 127 / max(change.abs().max().item(), 1.0)
    return (127.5 + factor * change).round().clamp(0, 255).to(torch.uint8), factor
