"""The processes of one training: those that torchrun started, or a single one.

DistributedDataParallel does not support the second derivatives of the gradient penalty. Every rank
starts from rank 0's parameters and takes its shard of each batch; the gradients are summed in one
flat all-reduce per update, after which all ranks take the same step. Random numbers are sampled for
the whole batch on every rank and sharded like the images, so the number of ranks does not change
them.
"""

import contextlib
import datetime
import os
import sys
from functools import partial

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_map_only

from inside_cnn.core.device import launched
from inside_cnn.core.errors import UserError
from inside_cnn.engine.cli import Stopped


def _send(operation, *args, trouble="lost each other", **options):
    """Call a function of torch.distributed. Raises UserError if another rank is gone."""
    try:
        return operation(*args, **options)
    except (RuntimeError, ValueError) as error:  # what the backends raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the processes of this run {trouble}: {reason}") from None


class Ranks(contextlib.AbstractContextManager):
    """The process group of a training. With one process every method is the identity.

    rank, world: index of this process, number of processes; main: whether it is rank 0, the only
    one that writes and prints. All ranks have to call the methods that send messages, all of which
    raise UserError if another rank is gone. Decisions and plain values are sent between CPUs, so
    that they do not wait for a GPU; tensors of the training with the backend of the device given to
    `use`.

    Leaving the context ends the process group: its threads may abort a process that ends before.
    """

    def __init__(self):
        self.rank, self.world, _ = launched()
        self.main = self.rank == 0
        self._group = self._device_group = None  # for values; for tensors of the training
        if self.world > 1:
            trouble = "do not find each other by MASTER_ADDR and MASTER_PORT"
            _send(dist.init_process_group, "gloo", trouble=trouble)
            week = datetime.timedelta(days=7)  # while one rank downloads or decodes images
            self._group = _send(dist.new_group, timeout=week, trouble=trouble)
            self._device_group = self._group
            if not self.main:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the script's end)

    def use(self, device):
        """Send the tensors of the training with NCCL if they are on GPUs."""
        if self.world > 1 and device.type == "cuda":
            self._device_group = _send(dist.new_group, backend="nccl")

    def __exit__(self, kind, *_):
        if self.world > 1:
            failed = kind is not None and not issubclass(kind, Stopped)
            if failed and self._device_group is not self._group:
                self._device_group.abort()  # NCCL: a pending message would wait for a dead rank
            dist.destroy_process_group()

    def shard(self, batch):
        """This rank's rows of a tensor, every world-th one, or of each tensor in a NamedTuple."""
        return tree_map_only(torch.Tensor, lambda rows: rows[self.rank :: self.world], batch)

    # ---------------------------------------------------------------- decisions and plain values

    def together(self, action):
        """The result of `action` on this rank. An error on any rank is raised on all ranks.

        A rank with an error raises its own, the others raise the first one. On ranks other than 0
        the error has `silent` set, so that the script prints one message.
        """
        result = error = None
        try:
            result = action()
        except Exception as raised:  # raised on all ranks below
            error = raised
        errors = [e for e in self._gather(error) if e is not None]
        if not errors:
            return result
        error = error or errors[0]
        error.silent = not self.main
        raise error

    def main_first(self, action):
        """The result of `action` on this rank; rank 0 acts before the others, to download data."""
        result = self.on_main(action)
        return self.together(lambda: result if self.main else action())

    def on_main(self, make):
        """The result of `make` on rank 0, None elsewhere; an error is raised on every rank."""
        return self.together(lambda: make() if self.main else None)

    def from_main(self, make):
        """The result of `make` on rank 0, sent to every rank: tensors and plain values."""
        made = [self.on_main(make)]
        if self.world > 1:
            _send(dist.broadcast_object_list, made, 0, group=self._group)
        return made[0]

    def agree(self, *numbers):
        """The maximum of each integer over the ranks."""
        tensor = torch.tensor(numbers)
        if self.world > 1:
            _send(dist.all_reduce, tensor, dist.ReduceOp.MAX, group=self._group)
        return tuple(tensor.tolist())

    def stack(self, tensor):
        """Every rank's tensor, on the CPU, for a checkpoint: (...) -> (world, ...)."""
        return torch.stack(self._gather(tensor.cpu()))

    def unstack(self, stacked):
        """This rank's part of a result of `stack`.

        If the number of ranks changed, rank 0 gets the sum and the others zeros.
        """
        return stacked[self.rank] if len(stacked) == self.world else stacked.sum(0) * self.main

    def _gather(self, value):
        gathered = [value] * self.world
        if self.world > 1:
            _send(dist.all_gather_object, gathered, value, group=self._group)
        return gathered

    # ---------------------------------------------------------------- tensors of the training

    def broadcast(self, part):
        """Copy rank 0's state of a network or an optimizer to every rank."""
        if self.world > 1:
            cpu = partial(tree_map_only, torch.Tensor, torch.Tensor.cpu)
            part.load_state_dict(self.from_main(lambda: cpu(part.state_dict())))

    def all_reduce(self, tensor):
        """The sum of a tensor over the ranks, on every rank."""
        if self.world > 1:
            tensor = tensor.clone()
            _send(dist.all_reduce, tensor, group=self._device_group)
        return tensor

    def all_reduce_gradients(self, module, loss, share):
        """Replace each gradient, and the loss, by the sum over the ranks of share * itself.

        share: images on this rank / images on all, so that the sum of the means is the mean over
        all. Returns the loss, detached. It is changed in place.
        """
        loss = loss.detach()
        if self.world > 1:
            tensors = [p.grad for p in module.parameters() if p.grad is not None] + [loss]
            flat = torch.cat([t.flatten() for t in tensors]).mul_(share)
            flat = self.all_reduce(flat)
            parts = flat.split([t.numel() for t in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))
        return loss


def check_batches(images, batch_size, world, drop_last):
    """Raises UserError if a batch is larger than the set or cannot be shared by the processes."""
    if batch_size > images:
        raise UserError(f"--batch_size {batch_size} is larger than the set ({images})")
    if drop_last and (batch_size % world or batch_size < 2 * world):
        raise UserError(
            f"--batch_size {batch_size} does not give each of the {world} processes the same "
            "number of images, at least 2"
        )
    if not drop_last and (images % batch_size or batch_size) < world:
        raise UserError(f"the last batch has fewer images than there are processes ({world})")
