"""One rank of two: a training until a signal to rank 1, the discriminator's gradients of its shard
of one batch, then an error.
"""

import contextlib
import os
import signal
import sys

import torch

import quick_plots
import steps
import train_discriminator
import train_gan
from discriminator import Discriminator
from inside_cnn.core.errors import UserError
from inside_cnn.engine import cli
from inside_cnn.training import panels
from inside_cnn.training.run import TrainingRun

FLAGS = ["--recipe", "classic", "--width", "4", "--device", "cpu", "--precision", "fp32"]
FLAGS += ["--batch_size", "8", "--gp_batch_shrink", "2"]
ERROR = "of rank 1"


def update(gan, batch):
    """One update of the discriminator with the batch: real, labels, z, fake_labels, alpha."""
    real, labels, z, fake_labels, alpha = batch
    inputs = train_gan.FakeInputs(fake_labels, z, alpha=alpha)
    return gan.update_discriminator(torch.tensor(1), (real, labels), inputs)


def fail():
    if os.environ["RANK"] == "1":
        raise UserError(ERROR)


def work(args):
    with TrainingRun(args, "train_gan.py", panels.GAN) as run:
        ranks, gan = run.ranks, train_gan.GAN(run, args)
        for network in (gan.discriminator, gan.generator.eval()):  # fakes depend on no batch
            ranks.broadcast(network)
        batch = [run.shard(t) for t in torch.load(sys.argv[1], weights_only=True)]
        metrics = update(gan, batch)
        names = ("gradient_penalty", "gradient_norm", "critic_gap")
        means = {name: ranks.all_reduce(metrics[name]) / ranks.world for name in names}
        if ranks.main:
            gradients = {name: p.grad for name, p in gan.discriminator.named_parameters()}
            torch.save({"gradients": gradients, "means": means}, sys.argv[2])
        assert ranks.agree(ranks.rank, 5 - ranks.rank) == (ranks.world - 1, 5)
        assert ranks.main_first(lambda: ranks.rank) == ranks.rank
        assert ranks.from_main(lambda: {"from": ranks.rank}) == {"from": 0}
        ranks.together(fail)


def stopped_training(flags):
    """The exit code of train_discriminator.py with a signal to rank 1."""
    stop = contextlib.nullcontext()
    if os.environ["RANK"] == "1":
        stop = steps.signal_at_pass(Discriminator, 4, signal.SIGTERM)
    with stop:
        return train_discriminator.main(flags)


if __name__ == "__main__":
    torch.set_num_threads(1)
    quick_plots.use()
    assert stopped_training(sys.argv[4:]) == 128 + signal.SIGTERM
    os.environ["MASTER_PORT"] = sys.argv[3]
    # Different weights on every rank, so that broadcast is tested.
    sys.exit(cli.exit_code_of(work, train_gan.parse_args([*FLAGS, "--seed", os.environ["RANK"]])))
