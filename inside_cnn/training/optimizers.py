"""Muon for convolution kernels, AdamW for the rest, as one optimizer."""

import copy
import math

import torch


def newton_schulz(matrices, dtype=torch.float32):
    """Each matrix U S V^T with its singular values S moved toward 1, into about [0.7, 1.2].

    matrices: (n, rows, columns) -> the same shape, in `dtype`. A zero matrix stays zero.
    Five steps of X <- a X + (b A + c A A) X with A = X X^T, a quintic in every singular value.
    Source: K. Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # K. Jordan's coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)).to(dtype)
    rows, columns = x.shape[1:]
    if x.device.type == "cuda":  # zeros stay zeros; sizes that are multiples of 8 are fast
        x = torch.nn.functional.pad(x, (0, -columns % 8, 0, -rows % 8))
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    x = x[:, :rows, :columns]
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalized steps: all singular values of a step are about equal.

    For weights with at least two dimensions; a kernel (out, in, k, k) is a matrix of `out` rows,
    that of a transposed convolution, (in, out, k, k), one of `in` rows. A step moves each row by
    about lr in norm (root mean square over the rows), and then scales the weight to the norm
    sqrt(rows). So lr is the relative size of a step. This is for layers followed by a
    normalization, whose output does not depend on the scale of weight and bias.
    dtype: of the Newton-Schulz steps. found_inf: as for torch's fused optimizers; if it is 1,
    weights and state do not change.
    Source: as `newton_schulz`; the normalization from K. Jordan's airbench.
    """

    def __init__(self, params, lr=0.02, momentum=0.9, dtype=torch.float32):
        self.found_inf, self.dtype = None, dtype
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        """One step for every weight that has a gradient."""
        for group in self.param_groups:
            by_shape = {}  # weights of one shape are orthogonalized together
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            for weights in by_shape.values():
                self._step(weights, group)

    def _step(self, weights, group):
        momentum = group["momentum"]
        steps = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            before = state["momentum_buffer"]
            after = before.lerp(weight.grad, 1 - momentum)
            # (out, in, k, k) -> (out, k k in), the memory order of channels_last.
            steps.append(weight.grad.lerp(after, momentum).movedim(1, -1).flatten(1))
            self._replace(before, after)
        steps = newton_schulz(torch.stack(steps), dtype=self.dtype).float()
        rows, columns = steps.shape[1:]
        steps = steps * (group["lr"] * max(1, rows / columns) ** 0.5)
        for weight, step in zip(weights, steps, strict=True):
            weight = weight.movedim(1, -1)
            after = weight - step.view_as(weight)
            self._replace(weight, after * (math.sqrt(rows) / after.norm()))

    def _replace(self, tensor, value):
        if self.found_inf is not None:
            value = torch.where(self.found_inf > 0, tensor, value)
        tensor.copy_(value)


class Combined:
    """Several optimizers for the parts of one model as a single one."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        self.found_inf = None

    @property
    def param_groups(self):
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self):
        for optimizer in self.optimizers:
            optimizer.found_inf = self.found_inf
            optimizer.step()

    def learning_rates(self):
        """{"muon_lr": Muon's, "lr": Adam's or AdamW's}."""
        return {
            "muon_lr" if isinstance(o, Muon) else "lr": float(o.param_groups[0]["lr"])
            for o in self.optimizers
        }

    def state_dict(self):
        """The moments of each weight, without learning rates and other settings."""
        return {"states": [optimizer.state_dict()["state"] for optimizer in self.optimizers]}

    def load_state_dict(self, state):
        """Copies the moments, in the memory layout of their weights: fused Adam ignores strides."""
        for optimizer, moments in zip(self.optimizers, state["states"], strict=True):
            moments = copy.deepcopy(moments)  # load_state_dict copies only what it converts
            optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
            for weight, of_weight in optimizer.state.items():
                for name in of_weight.keys() - {"step"}:
                    of_weight[name] = torch.empty_like(weight).copy_(of_weight[name])


def make_optimizer(
    kind, model, lr, muon_lr, betas=(0.9, 0.999), weight_decay=0.0, momentum=0.9, bf16=False
):
    """`adam`: Adam for all weights; `muon`: Muon for the kernels of the blocks, AdamW for the rest.

    model: a Discriminator or Generator, whose blocks are a convolution and a normalization.
    lr, betas, weight_decay: of Adam or AdamW; muon_lr, momentum, bf16 (Newton-Schulz steps in
    bfloat16): of Muon. Every group has its learning rate as `initial_lr` too, for schedules.
    """
    if kind == "adam":
        optimizer = Combined(torch.optim.Adam(model.parameters(), lr, betas, fused=True))
    else:
        kernels = [block[0].weight for block in model.blocks]
        rest = [w for w in model.parameters() if not any(w is kernel for kernel in kernels)]
        optimizer = Combined(
            Muon(kernels, muon_lr, momentum, torch.bfloat16 if bf16 else torch.float32),
            torch.optim.AdamW(rest, lr, betas, weight_decay=weight_decay, fused=True),
        )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def keep_learning_rates_on(device, optimizer):
    """Make the learning rates tensors on the device, so that a captured step reads them there."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), group["initial_lr"], device=device)
        if "capturable" in group:
            group["capturable"] = True
