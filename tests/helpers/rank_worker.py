"""Started by torchrun: the discriminator's gradients out of each rank's share of one batch."""

import sys

import torch

import train_gan
from discriminator import Discriminator
from generator import Generator
from training.distributed import Ranks


def main():
    torch.set_num_threads(1)
    ranks = Ranks(torch.device("cpu"))
    torch.manual_seed(100 + ranks.rank)  # other weights on every rank: the broadcast must mend it
    discriminator = Discriminator(width=4)
    ranks.broadcast(discriminator)
    generator = Generator(width=4).eval()  # eval: its fakes do not depend on the batch
    ranks.broadcast(generator)
    batch = [ranks.share(t) for t in torch.load(sys.argv[1], weights_only=True)]
    real, labels, latents, fake_labels, mix = batch
    parts = train_gan.discriminator_backward(
        discriminator, generator, real, labels, latents, fake_labels, mix, 10.0, "fp32"
    )
    loss = ranks.sum_gradients(discriminator, parts["discriminator_loss"], 1 / ranks.world)
    if ranks.main:
        found = {name: p.grad for name, p in discriminator.named_parameters()}
        torch.save({"gradients": found, "loss": loss}, sys.argv[2])
    assert ranks.agree(ranks.rank, 5 - ranks.rank) == (ranks.world - 1, 5)
    assert ranks.from_main(lambda: {"from": ranks.rank}) == {"from": 0}
    ranks.close()


if __name__ == "__main__":
    main()
