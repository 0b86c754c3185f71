"""The exponential moving average of a network's weights."""

import torch


@torch.no_grad()
def update_average(average, model, decay, updates):
    """average = d average + (1 - d) model, for the weights and for BatchNorm's statistics.

    d = min(decay, (1 + updates) / (10 + updates)): so the untrained weights are soon forgotten.
    updates: number of averages taken before, a number or a float64 tensor of one.
    """
    weight = 1 - (1 + updates) / (10 + updates)
    tensor = isinstance(updates, torch.Tensor)
    weight = weight.clamp_min(1 - decay).float() if tensor else max(weight, 1 - decay)
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, weight)
        else:
            mean.copy_(value)
