"""Pixels as uint8 and in [-1, 1]; mean images as text, for what exported weights tell."""

import base64

import numpy as np
import torch

MEAN_SHAPE = (1, 3, 32, 32)


def to_signed(images):
    """uint8 (b, 3, h, w) -> float32 in [-1, 1], by (x - 0.5) / 0.5 of x = pixel / 255."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images):
    """Float images in [-1, 1] -> uint8, rounded; the inverse of to_signed."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def encode_mean_image(images):
    """The mean of uint8 images (b, 3, 32, 32), rounded, its bytes in base64."""
    mean = images.float().mean(0).round().to(torch.uint8)
    return base64.b64encode(mean.cpu().numpy().tobytes()).decode()


def mean_image(facts):
    """The uint8 (1, 3, 32, 32) out of what Dataset.facts gave; None where there is none."""
    try:
        data = base64.b64decode(facts.get("mean_image"), validate=True)
    except (TypeError, ValueError):
        return None
    if len(data) != np.prod(MEAN_SHAPE):
        return None
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(MEAN_SHAPE).copy())
