"""The exponential moving average of a network's weights."""

import copy

import torch


class EMA:
    """average = d average + (1 - d) network, for the weights and for BatchNorm's statistics.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the untrained weights fade quickly.
    model: the average, in eval mode, or the network itself with a decay of 0; name: of its weights.
    """

    def __init__(self, network, decay):
        self.decay = decay
        self.model = copy.deepcopy(network).eval() if decay else network
        self.name = f"EMA {decay}" if decay else "raw"

    @torch.no_grad()
    def update(self, network, updates):
        """Average with the network. updates: number of earlier updates, a float64 scalar tensor."""
        if not self.decay:
            return
        weight = (1 - (1 + updates) / (10 + updates)).clamp_min(1 - self.decay).float()
        pairs = zip(self.model.state_dict().values(), network.state_dict().values(), strict=True)
        for mean, value in pairs:
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    def state_dict(self):
        return self.model.state_dict() if self.decay else {}

    def load_state_dict(self, state):
        if self.decay:
            self.model.load_state_dict(state)
