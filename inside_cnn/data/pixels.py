"""Pixels as uint8 and in [-1, 1]; mean images as text in the metadata of exported weights."""

import base64

import numpy as np
import torch


def to_signed(images):
    """uint8 (b, 3, h, w) -> float32 in [-1, 1], by (x - 0.5) / 0.5 of x = pixel / 255."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images):
    """Float images in [-1, 1] -> uint8, rounded; the inverse of to_signed."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def mean_image(metadata):
    """The mean image in the metadata of weights, uint8 (1, 3, 32, 32); None if it is not valid."""
    try:
        data = base64.b64decode(metadata.get("mean_image"), validate=True)
        return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(1, 3, 32, 32).copy())
    except (TypeError, ValueError):
        return None
