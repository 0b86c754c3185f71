"""Started by torchrun: the discriminator's gradients out of each rank's shard of one batch."""

import sys

import torch

import train_gan
from discriminator import Discriminator
from generator import Generator
from training import panels
from training.optimizers import make_optimizer
from training.run import TrainingRun

FLAGS = ["--recipe", "classic", "--device", "cpu", "--precision", "fp32"]


def update(run, args, discriminator, generator, batch):
    """One update of the discriminator by the batch: real, labels, z, fake_labels, alpha."""
    optimizer = make_optimizer("adam", discriminator, lr=args.lr, kernel_lr=0.0)
    networks, step = (discriminator, generator), torch.tensor(1)
    return train_gan.update_discriminator(run, args, *networks, optimizer, step, *batch)


def main():
    torch.set_num_threads(1)
    args = train_gan.parse_args(FLAGS)
    with TrainingRun(args, "train_gan.py", panels.GAN) as run:
        ranks = run.ranks
        torch.manual_seed(100 + ranks.rank)  # other weights on every rank: broadcast must mend it
        discriminator, generator = Discriminator(width=4), Generator(width=4).eval()
        ranks.broadcast(discriminator, generator)  # in eval mode fakes do not depend on the batch
        batch = [run.shard(t) for t in torch.load(sys.argv[1], weights_only=True)]
        metrics = update(run, args, discriminator, generator, batch)
        if ranks.main:
            gradients = {name: p.grad for name, p in discriminator.named_parameters()}
            loss = metrics["discriminator_loss"]
            torch.save({"gradients": gradients, "loss": loss}, sys.argv[2])
        assert ranks.agree(ranks.rank, 5 - ranks.rank) == (ranks.world - 1, 5)
        assert ranks.main_first(lambda: ranks.rank) == ranks.rank
        assert ranks.from_main(lambda: {"from": ranks.rank}) == {"from": 0}


if __name__ == "__main__":
    main()
