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
    about lr in norm (root mean square over the rows), and then scales the weight to the norm
    sqrt(rows). So lr is the relative size of a step. This is for layers that a normalization
    follows, to which the scale of weight and bias together makes no difference.
    dtype: of the Newton-Schulz steps. found_inf: as torch's fused optimizers take it; if it is 1,
    weights and state do not change.
    Source: as `newton_schulz`; the normalization from K. Jordan's airbench.
    """

    def __init__(self, params, lr=0.02, momentum=0.9, dtype=torch.float32):
        self.found_inf, self.dtype = None, dtype
        super().__init__(params, {"lr": lr, "momentum": momentum})
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
            weight = weight.movedim(1, -1)
            after = weight - step.view_as(weight)
            self._replace(weight, after * (math.sqrt(rows) / after.norm()))

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
        """{"muon_lr": Muon's, "lr": Adam's or AdamW's}."""
        names = {Muon: "muon_lr"}
        return {
            names.get(type(optimizer), "lr"): float(optimizer.param_groups[0]["lr"])
            for optimizer in self.optimizers
        }

    def state_dict(self):
        """The moments of each weight; the settings are the caller's."""
        return {"states": [optimizer.state_dict()["state"] for optimizer in self.optimizers]}

    def load_state_dict(self, state):
        """Raises ValueError if a moment does not have the shape of its weight.

        Moments get the memory layout of their weights: fused Adam checks neither size nor strides,
        and would silently take wrong steps.
        """
        for optimizer, saved in zip(self.optimizers, state["states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            for index, moments in saved.items():
                shapes = {t.shape for name, t in moments.items() if name != "step"}
                if shapes != {weights[index].shape}:
                    raise ValueError("the optimizer's state does not fit the weights")
            copies = {
                index: {
                    name: value.clone() if name == "step" else _like(weights[index], value)
                    for name, value in moments.items()
                }
                for index, moments in saved.items()
            }
            optimizer.load_state_dict(optimizer.state_dict() | {"state": copies})


def _like(weight, value):
    """A copy of the value with the memory layout of the weight."""
    return torch.empty_like(weight).copy_(value)


def make_optimizer(
    kind, model, lr, muon_lr, betas=(0.9, 0.999), weight_decay=0.0, momentum=0.9, bf16=False
):
    """`adam`: Adam for all weights; `muon`: Muon for the kernels of the blocks, AdamW for the rest.

    model: a Discriminator or Generator, whose blocks begin with a convolution and go on with a
    normalization. lr, betas, weight_decay: Adam's or AdamW's; muon_lr, momentum, bf16 (whether
    its Newton-Schulz steps are in bfloat16): Muon's.
    Every group keeps its learning rate as `initial_lr` too, for schedules.
    """
    if kind == "adam":
        optimizer = Combined(torch.optim.Adam(model.parameters(), lr, betas, fused=True))
    else:
        kernels = [block[0].weight for block in model.blocks]
        kernel_ids = set(map(id, kernels))
        rest = [weight for weight in model.parameters() if id(weight) not in kernel_ids]
        optimizer = Combined(
            Muon(kernels, muon_lr, momentum, torch.bfloat16 if bf16 else torch.float32),
            torch.optim.AdamW(rest, lr, betas, weight_decay=weight_decay, fused=True),
        )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def keep_learning_rates_on(device, optimizer):
    """Make the learning rates tensors on the device, where a captured step reads them."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), group["initial_lr"], device=device)
        if "capturable" in group:
            group["capturable"] = True
