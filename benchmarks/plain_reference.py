"""A plain implementation of the homework's recipe, as a baseline of the benchmarks.

float32, channels first, PIL transforms in a DataLoader, three passes through the discriminator, the
default Adam. The networks are Discriminator and Generator without `accelerate`.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from generator import sample_latents

TO_TENSOR = (transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3))
TEST_TRANSFORM = transforms.Compose(TO_TENSOR)
TRAIN_TRANSFORM = transforms.Compose(
    [
        transforms.RandomResizedCrop(32, scale=(0.7, 1.0), ratio=(1.0, 1.0)),
        transforms.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1),
        transforms.RandomHorizontalFlip(),
        *TO_TENSOR,
    ]
)


class PilImages(torch.utils.data.Dataset):
    """images: uint8 (n, 3, 32, 32); labels: (n,). An item is (transformed image, label)."""

    def __init__(self, images, labels, transform):
        self.images = images.permute(0, 2, 3, 1).numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def classifier_step(model, optimizer, images, labels):
    loss = F.cross_entropy(model(images)[1], labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def gan_step(discriminator, generator, d_optimizer, g_optimizer, real, labels):
    """One update of each network; returns both losses."""
    count = len(real)
    discriminator.requires_grad_(False)
    fake_labels = torch.randint(10, (count,), device=real.device)
    scores, logits = discriminator(generator(sample_latents(fake_labels)))
    g_loss = -scores.mean() + F.cross_entropy(logits, fake_labels)
    g_optimizer.zero_grad()
    g_loss.backward()
    g_optimizer.step()

    discriminator.requires_grad_(True)
    fake_labels = torch.randint(10, (count,), device=real.device)
    with torch.no_grad():
        fake = generator(sample_latents(fake_labels))
    real_scores, real_logits = discriminator(real)
    fake_scores, fake_logits = discriminator(fake)
    a = torch.rand(count, 1, 1, 1, device=real.device)
    x_hat = (a * real + (1 - a) * fake).requires_grad_(True)
    scores, _ = discriminator(x_hat)
    (gradient,) = torch.autograd.grad(scores.sum(), x_hat, create_graph=True)
    penalty = ((gradient.view(count, -1).norm(2, dim=1) - 1) ** 2).mean()
    gap = real_scores.mean() - fake_scores.mean()
    class_loss_real = F.cross_entropy(real_logits, labels)
    class_loss_fake = F.cross_entropy(fake_logits, fake_labels)
    d_loss = -gap + class_loss_real + class_loss_fake + 10 * penalty
    d_optimizer.zero_grad()
    d_loss.backward()
    d_optimizer.step()
    return d_loss.item(), g_loss.item()


@torch.no_grad()
def accuracy(model, batches):
    """In %, over all images of a DataLoader."""
    correct, device = 0, next(model.parameters()).device
    for images, labels in batches:
        correct += (model(images.to(device))[1].argmax(1) == labels.to(device)).sum().item()
    return 100 * correct / len(batches.dataset)


def max_features(model, layer, images, steps, lr=0.1, decay=0.001):
    """Image i maximizes feature i of the layer, which a forward hook records."""
    outputs, index = {}, torch.arange(len(images))
    block = model.blocks[layer - 1]
    hook = block.register_forward_hook(lambda *args: outputs.update(x=args[2]))
    for _ in range(steps):
        images = images.detach().requires_grad_(True)
        model(images)
        pooled = F.max_pool2d(outputs["x"], outputs["x"].shape[-1]).flatten(1)
        (gradient,) = torch.autograd.grad(pooled[index, index].sum(), images)
        images = (images + lr * gradient - decay * images * images.abs()).clamp(-1, 1)
    hook.remove()
    return images.detach()
