"""Which features answer to an image, and where in it. What the fourth tab computes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from data_tools import to_signed

COUNT = 6  # features shown of each network


class Fired(NamedTuple):
    """A feature's answer to an image.

    value: its largest activation, `unusual`: by how many standard deviations that is above its
    mean over the reference images, None without any; activations: float (h, w); row, column: where
    in the map it is largest.
    """

    feature: int
    value: float
    unusual: float | None
    activations: torch.Tensor
    row: int
    column: int


@torch.no_grad()
def strongest_features(session, network, image, layer, count=COUNT):
    """The Fired of the features that answer most unusually to an image, the most unusual first.

    image: uint8 (3, 32, 32). Without reference images: the strongest ones.
    """
    maps = network.activations(to_signed(image.to(session.device))[None], layer)[0].cpu()
    values, places = maps.flatten(1).max(1)
    measure = values
    if session.images is not None:
        usual = session.reference(network)[layer - 1]
        spread = usual.std(0)
        measure = torch.where(spread > 1e-6, (values - usual.mean(0)) / spread.clamp_min(1e-6), 0.0)
    side = maps.shape[2]
    return [
        Fired(
            feature,
            values[feature].item(),
            None if session.images is None else measure[feature].item(),
            maps[feature],
            *divmod(places[feature].item(), side),
        )
        for feature in measure.argsort(descending=True, stable=True)[:count].tolist()
    ]


def lit(image, activations):
    """The image, bright where a feature is active, dark elsewhere: uint8 (3, h, w)."""
    share = activations.clamp_min(0) / activations.max().clamp_min(1e-12)
    share = F.interpolate(share[None, None], image.shape[1:], mode="nearest")[0, 0]
    return (image.cpu().float() * (0.3 + 0.7 * share)).round().to(torch.uint8)
