"""Muon for convolution kernels, AdamW for the rest, as one optimizer."""

import math

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # K. Jordan's coefficients


def newton_schulz(matrices, steps=5, dtype=torch.float32):
    """Each matrix U S V^T with its singular values S pushed toward 1, into about [0.7, 1.2].

    matrices: (n, rows, columns) -> the same shape, in `dtype`. A zero matrix stays zero.
    Five steps of X <- a X + (b A + c A A) X with A = X X^T, a quintic in every singular value.
    Source: K. Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)).to(dtype)
    rows, columns = x.shape[1:]
    if x.device.type == "cuda":  # zeros stay zeros; products of multiples of 8 are the fast ones
        x = torch.nn.functional.pad(x, (0, -columns % 8, 0, -rows % 8))
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    x = x[:, :rows, :columns]
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is orthogonalized: every direction of a kernel moves alike.

    For weights with at least two dimensions; a convolution's (out, in, k, k) counts as a matrix of
    `out` rows, a transposed one's (in, out, k, k) as one of `in` rows. A step moves each row by
    about lr in norm (root mean square over the rows).
    normalize: keep every weight at the norm sqrt(rows), from the first step on; for layers that a
    normalization follows, to which the scale of weight and bias together makes no difference. lr is
    then the relative size of a step.
    dtype: of the Newton-Schulz steps. found_inf: as torch's fused optimizers take it; where it is
    1, weights and state stay as they are.
    Source: as `newton_schulz`; the normalization from K. Jordan's airbench.
    """

    def __init__(self, params, lr=0.02, momentum=0.9, normalize=False, dtype=torch.float32):
        self.found_inf, self.dtype = None, dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "normalize": normalize})
        for weight in (w for group in self.param_groups for w in group["params"]):
            if weight.ndim < 2:
                raise ValueError(f"a weight has no rows and columns: {tuple(weight.shape)}")

    @torch.no_grad()
    def step(self):
        """One step for every weight that has a gradient."""
        for group in self.param_groups:
            alike = {}  # weights of one shape are orthogonalized together
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for weights in alike.values():
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
            steps.append(_rows(weight.grad.lerp(after, momentum)))
            self._replace(before, after)
        steps = newton_schulz(torch.stack(steps), dtype=self.dtype).float()
        rows, columns = steps.shape[1:]
        steps = steps * (group["lr"] * max(1, rows / columns) ** 0.5)
        for weight, step in zip(weights, steps, strict=True):
            after = weight.movedim(1, -1) - step.view_as(weight.movedim(1, -1))
            if group["normalize"]:
                after *= math.sqrt(rows) / after.norm()
            self._replace(weight.movedim(1, -1), after)

    def _replace(self, tensor, value):
        if self.found_inf is not None:
            value = torch.where(self.found_inf > 0, tensor, value)
        tensor.copy_(value)


def _rows(weight):
    """(out, in, k, k) -> (out, k k in), the order in which channels_last keeps them."""
    return weight.movedim(1, -1).flatten(1)


class Combined:
    """Several optimizers for the parts of one model, which step, and are saved, as one."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        self.found_inf = self.grad_scale = None

    @property
    def param_groups(self):
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self):
        for optimizer in self.optimizers:
            optimizer.found_inf, optimizer.grad_scale = self.found_inf, self.grad_scale
            optimizer.step()

    def learning_rates(self):
        """{"kernel_lr": Muon's, "lr": Adam's or AdamW's}, those that there are."""
        names = {Muon: "kernel_lr"}
        return {
            names.get(type(optimizer), "lr"): float(optimizer.param_groups[0]["lr"])
            for optimizer in self.optimizers
        }

    def state_dict(self):
        """What was learnt of each weight; the settings are the caller's."""
        return {"states": [optimizer.state_dict()["state"] for optimizer in self.optimizers]}

    def load_state_dict(self, state):
        """Raises ValueError where the state does not fit the weights.

        Moments are laid out in memory like their weights: fused Adam checks neither size nor
        strides, and would silently take wrong steps.
        """
        for optimizer, saved in zip(self.optimizers, state["states"], strict=True):
            own = optimizer.state_dict()
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            names = _STATE_NAMES[type(optimizer)]
            for index, entry in saved.items():
                if index not in range(len(weights)) or entry.keys() != names:
                    raise ValueError("the optimizer's state is of other weights")
                for name, value in entry.items():
                    shape = torch.Size([]) if name == "step" else weights[index].shape
                    if value.shape != shape or value.dtype != torch.float32:
                        raise ValueError("the optimizer's state does not fit the weights")
            laid_out = {
                index: {
                    name: value.clone() if name == "step" else _like(weights[index], value)
                    for name, value in entry.items()
                }
                for index, entry in saved.items()
            }
            optimizer.load_state_dict(own | {"state": laid_out})


def _like(weight, value):
    """A copy of the value with the memory layout and device of the weight."""
    return torch.empty_like(weight).copy_(value)


_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_STATE_NAMES = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    Muon: {"momentum_buffer"},
}


def make_optimizer(kind, model, lr, kernel_lr, betas=(0.9, 0.999), weight_decay=0.0, **options):
    """`adam`: Adam for all weights; `muon`: Muon for the kernels of the blocks, AdamW for the rest.

    model: a Discriminator or Generator, whose blocks begin with a convolution and go on with a
    normalization. lr, betas, weight_decay: Adam's or AdamW's; kernel_lr, options: Muon's.
    Every group keeps its learning rate as `initial_lr` too, for schedules.
    """
    if kind == "adam":
        optimizer = Combined(torch.optim.Adam(model.parameters(), lr, betas, fused=True))
    else:
        kernels = [block[0].weight for block in model.blocks]
        taken = set(map(id, kernels))
        rest = [weight for weight in model.parameters() if id(weight) not in taken]
        optimizer = Combined(
            Muon(kernels, kernel_lr, **options),
            torch.optim.AdamW(rest, lr, betas, weight_decay=weight_decay, fused=True),
        )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def keep_learning_rates_on(device, optimizer):
    """Have the learning rates be tensors on the device, where a captured step reads them."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), group["initial_lr"], device=device)
        if "capturable" in group:
            group["capturable"] = True
