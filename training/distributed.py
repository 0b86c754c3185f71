"""The processes of one training: those that torchrun started, or the only one.

No DistributedDataParallel: its hooks do not expect the gradients of gradients that the penalty
needs. Every rank starts from rank 0's parameters, takes its share of each batch, and the gradients
are summed in one flat all-reduce per step, after which all ranks take the same step. Random numbers
are drawn for the whole batch on every rank and shared out like the images, so that the number of
ranks does not change them.
"""

import datetime
import os
import sys

import torch
import torch.distributed as dist


class RanksDiffer(Exception):
    """The processes of one run have not got the same data or settings; the message says which."""


class Ranks:
    """This process's place among the ranks. With one process every method is the identity.

    rank, world: number of this process, number of processes; main: whether it is rank 0, which
    alone writes and prints. Methods that talk to other ranks have to be called by all of them.
    """

    def __init__(self, device):
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.main = self.rank == 0
        if self.world > 1:
            timeout = datetime.timedelta(minutes=10)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timeout)
            # Small decisions travel between the CPUs, where they do not wait for the GPU's work.
            self.cpu_group = dist.new_group(backend="gloo", timeout=timeout)
            if not self.main:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)

    def share(self, batch):
        """This rank's rows of a tensor: every world-th one, from the rank-th on."""
        return batch[self.rank :: self.world]

    def main_first(self, action):
        """What `action` returns here; rank 0 acts before the others: it downloads, they find."""
        result = self.together(lambda: action() if self.main else None)
        return self.together(lambda: result if self.main else action())

    def broadcast(self, *modules):
        """Give every rank rank 0's parameters and buffers."""
        if self.world > 1:
            for module in modules:
                for tensor in module.state_dict().values():
                    dense = tensor.contiguous()  # channels_last weights are not, for the backends
                    dist.broadcast(dense, 0)
                    tensor.copy_(dense)

    def from_main(self, make):
        """What `make` returns on rank 0, on every rank: tensors and plain values.

        What it raises there is raised on every rank.
        """
        if self.world == 1:
            return make()
        found = [None, None]
        if self.main:
            try:
                found[0] = make()
            except Exception as error:  # handed to all ranks below
                found[1] = error
        dist.broadcast_object_list(found, 0, group=self.cpu_group)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def together(self, action):
        """What `action` returns here; an error on any rank is raised on all, so that none waits."""
        if self.world == 1:
            return action()
        result = error = None
        try:
            result = action()
        except Exception as raised:  # handed to all ranks below
            error = raised
        errors = [found for found in self._gather(error) if found is not None]
        if errors:
            raise errors[0]
        return result

    def check_same(self, facts):
        """Raises RanksDiffer where a dict of plain values is not the same on every rank."""
        if self.world > 1:
            for rank, theirs in enumerate(gathered := self._gather(facts)):
                if theirs != gathered[0]:
                    differences = [
                        f"{name} is {gathered[0][name]!r} on rank 0, {theirs[name]!r} on {rank}"
                        for name in gathered[0]
                        if gathered[0][name] != theirs[name]
                    ]
                    raise RanksDiffer(f"the processes do not agree: {'; '.join(differences)}")

    def stack(self, tensor):
        """Every rank's tensor, on the CPU: (...) -> (world, ...). To be kept in a checkpoint."""
        return torch.stack(self._gather(tensor.cpu()))

    def unstack(self, stacked):
        """This rank's part of what `stack` made.

        For another number of ranks: rank 0 gets the sum of all, the others zeros.
        """
        return stacked[self.rank] if len(stacked) == self.world else stacked.sum(0) * self.main

    def _gather(self, value):
        gathered = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(gathered, value, group=self.cpu_group)
        return gathered

    def sum_gradients(self, module, loss, weight):
        """Replace each gradient, and the loss, by the sum over the ranks of weight * itself.

        weight: images on this rank / images on all, so that means over the ranks' images become the
        mean over all. Returns the loss, detached.
        """
        loss = loss.detach()
        if self.world > 1:
            tensors = [p.grad for p in module.parameters() if p.grad is not None] + [loss]
            flat = torch.cat([t.flatten() for t in tensors]).mul_(weight)
            dist.all_reduce(flat)
            parts = flat.split([t.numel() for t in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))
        return loss

    def sum(self, tensor):
        """The sum of a tensor over the ranks, on every rank."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def agree(self, *numbers):
        """The largest of each number over the ranks: whole numbers, the same answer everywhere."""
        if self.world == 1:
            return numbers
        tensor = torch.tensor(numbers)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.cpu_group)
        return tuple(tensor.tolist())

    def close(self):
        if self.world > 1:
            dist.destroy_process_group()
