"""A plain implementation of the homework's recipe, as a baseline for throughput.py.

float32, channels first, PIL transforms in a DataLoader, nn.LayerNorm over [C, H, W], three passes
through the discriminator, the default Adam. The scripts do not use this module.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import transforms

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


def loader(images, labels, transform, shuffle=True, **options):
    data = PilImages(images, labels, transform)
    return torch.utils.data.DataLoader(data, shuffle=shuffle, **options)


class PlainDiscriminator(nn.Module):
    def __init__(self, width=196):
        super().__init__()
        layers, channels = [], 3
        for size, stride in ((32, 1), (16, 2), (16, 1), (8, 2), (8, 1), (8, 1), (8, 1), (4, 2)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1)]
            layers += [nn.LayerNorm([width, size, size]), nn.LeakyReLU(0.01)]
            channels = width
        self.layers, self.pool = nn.Sequential(*layers), nn.MaxPool2d(4)
        self.fc1, self.fc10 = nn.Linear(width, 1), nn.Linear(width, 10)

    def forward(self, x):
        x = self.pool(self.layers(x)).flatten(1)
        return self.fc1(x), self.fc10(x)


class PlainGenerator(nn.Module):
    def __init__(self, width=196):
        super().__init__()
        self.width = width
        self.fc = nn.Sequential(nn.Linear(100, width * 16), nn.BatchNorm1d(width * 16), nn.ReLU())
        layers = []
        for up in (True, False, False, False, True, False, True):
            kind, *sizes = (nn.ConvTranspose2d, 4, 2, 1) if up else (nn.Conv2d, 3, 1, 1)
            layers += [kind(width, width, *sizes), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Tanh())

    def forward(self, z):
        return self.layers(self.fc(z).view(-1, self.width, 4, 4))


def classifier_step(model, optimizer, images, labels):
    loss = F.cross_entropy(model(images)[1], labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def latents(labels):
    z = torch.randn(len(labels), 100, device=labels.device)
    z[:, :10] = F.one_hot(labels, 10)
    return z


def gan_step(discriminator, generator, d_optimizer, g_optimizer, real, labels):
    """One update of each network; returns the parts of the losses."""
    count = len(real)
    discriminator.requires_grad_(False)
    fake_labels = torch.randint(10, (count,), device=real.device)
    scores, logits = discriminator(generator(latents(fake_labels)))
    g_loss = -scores.mean() + F.cross_entropy(logits, fake_labels)
    g_optimizer.zero_grad()
    g_loss.backward()
    g_optimizer.step()

    discriminator.requires_grad_(True)
    fake_labels = torch.randint(10, (count,), device=real.device)
    with torch.no_grad():
        fake = generator(latents(fake_labels))
    real_scores, real_logits = discriminator(real)
    fake_scores, fake_logits = discriminator(fake)
    a = torch.rand(count, 1, 1, 1, device=real.device)
    x_hat = (a * real + (1 - a) * fake).requires_grad_(True)
    scores, _ = discriminator(x_hat)
    (gradient,) = torch.autograd.grad(scores, x_hat, torch.ones_like(scores), create_graph=True)
    penalty = ((gradient.view(count, -1).norm(2, dim=1) - 1) ** 2).mean()
    gap = real_scores.mean() - fake_scores.mean()
    class_loss_real = F.cross_entropy(real_logits, labels)
    class_loss_fake = F.cross_entropy(fake_logits, fake_labels)
    d_optimizer.zero_grad()
    (-gap + class_loss_real + class_loss_fake + 10 * penalty).backward()
    d_optimizer.step()
    parts = {"critic_gap": gap, "gradient_penalty": penalty, "generator_loss": g_loss}
    parts |= {"class_loss_real": class_loss_real, "class_loss_fake": class_loss_fake}
    return {name: part.item() for name, part in parts.items()}


@torch.no_grad()
def accuracy(model, batches):
    """In %, over all images of the loader."""
    correct = count = 0
    device = next(model.parameters()).device
    for images, labels in batches:
        correct += (model(images.to(device))[1].argmax(1) == labels.to(device)).sum().item()
        count += len(labels)
    return 100 * correct / count


def max_features(model, layer, images, steps, lr=0.1, decay=0.001):
    """Image i maximizes feature i of the layer, which a forward hook records."""
    outputs, index = {}, torch.arange(len(images))
    block_end = model.layers[3 * layer - 1]
    hook = block_end.register_forward_hook(lambda *args: outputs.update(x=args[2]))
    for _ in range(steps):
        images = images.detach().requires_grad_(True)
        model(images)
        pooled = F.max_pool2d(outputs["x"], outputs["x"].shape[-1]).flatten(1)
        (gradient,) = torch.autograd.grad(pooled[index, index].sum(), images)
        images = (images + lr * gradient - decay * images * images.abs()).clamp(-1, 1)
    hook.remove()
    return images.detach()
