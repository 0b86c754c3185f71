"""Losses of the GAN: WGAN-GP's or R3GAN's for the score, ACGAN's for the classes."""

import torch
import torch.nn.functional as F

from inside_cnn.layers.double_backward import input_gradient


def gradient_penalty(discriminator, real, fake, alpha, zero_centered=False):
    """Mean of (n - 1)^2, or n^2, over the pairs, and mean of n: two scalars, in float32 at least.

    n = ||d score / d x_hat||_2 at x_hat = alpha real + (1 - alpha) fake, for the first len(alpha)
    pairs. zero_centered: of n^2, with alpha rounded to 0 or 1, so that x_hat is one image of the
    pair. Differentiable in the discriminator's parameters; `real` and `fake` get no
    gradient.
    real, fake: (b, 3, 32, 32) in [-1, 1]; alpha: (n, 1, 1, 1) in [0, 1], n <= b.
    Source: Gulrajani et al. 2017, Improved Training of Wasserstein GANs, section 4; zero-centered:
    Mescheder et al. 2018, Which Training Methods for GANs do actually Converge?, section 4.1.
    """
    if zero_centered:
        alpha = alpha.round()
    real, fake = real[: len(alpha)], fake[: len(alpha)]
    x_hat = torch.lerp(fake.detach(), real.detach(), alpha.to(real.dtype)).requires_grad_()
    scores, _ = discriminator(x_hat)
    # No score depends on another image, so the gradient of the sum holds the gradient of each.
    gradient = input_gradient(scores.sum(), x_hat, create_graph=True).flatten(1)
    norms = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).norm(dim=1)
    target = 0 if zero_centered else 1
    return (norms - target).square().mean(), norms.mean()


def discriminator_loss(
    discriminator,
    real,
    labels,
    fake,
    fake_labels,
    *,
    alpha,
    gp_weight=10.0,
    fake_class_weight=1.0,
    relativistic=False,
):
    """Loss of the discriminator, a scalar, and its parts, a dict of detached scalars.

    L = mean D(fake) - mean D(real) + CE(real) + fake_class_weight CE(fake) + gp_weight penalty.
    relativistic: the first two terms are mean softplus(D(fake) - D(real)) over the pairs, and the
    penalty is zero-centered.
    real, fake: (b, 3, 32, 32) in [-1, 1]; labels, fake_labels: int64 (b,); alpha: as
    gradient_penalty takes it.
    Source: Gulrajani et al. 2017, equation 3; Odena et al. 2017, equation 2; relativistic: Huang et
    al. 2024, The GAN is dead; long live the GAN!, section 2.
    """
    # One pass for real and fake images: the discriminator treats each image independently.
    scores, class_logits = discriminator(torch.cat([real, fake]))
    real_scores, fake_scores = scores.float().split([len(real), len(fake)])
    real_logits, fake_logits = class_logits.float().split([len(real), len(fake)])
    critic_gap = real_scores.mean() - fake_scores.mean()
    class_loss_real = F.cross_entropy(real_logits, labels)
    class_loss_fake = F.cross_entropy(fake_logits, fake_labels)
    penalty, gradient_norm = gradient_penalty(discriminator, real, fake, alpha, relativistic)
    score_loss = F.softplus(fake_scores - real_scores).mean() if relativistic else -critic_gap
    class_loss = class_loss_real + fake_class_weight * class_loss_fake
    loss = score_loss + class_loss + gp_weight * penalty
    parts = {
        "discriminator_loss": loss,
        "critic_gap": critic_gap,
        "gradient_penalty": penalty,
        "gradient_norm": gradient_norm,
        "class_loss_real": class_loss_real,
        "class_loss_fake": class_loss_fake,
        "class_accuracy_real": 100 * (real_logits.argmax(1) == labels).float().mean(),
        "class_accuracy_fake": 100 * (fake_logits.argmax(1) == fake_labels).float().mean(),
    }
    return loss, {name: part.detach() for name, part in parts.items()}


def real_images_loss(
    discriminator, real, labels, *, alpha=None, gp_weight=10.0, relativistic=False
):
    """Loss of a discriminator without fakes, a scalar, and its parts, as in discriminator_loss.

    L = CE(real) + gp_weight penalty, between each real image and the next one of the batch;
    relativistic: the penalty is zero-centered.
    real: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,); alpha: None for a loss without penalty.
    """
    class_logits = discriminator(real)[1].float()
    loss = class_loss = F.cross_entropy(class_logits, labels)
    parts = {
        "class_loss_real": class_loss,
        "class_accuracy_real": 100 * (class_logits.argmax(1) == labels).float().mean(),
    }
    if alpha is not None:
        penalty, gradient_norm = gradient_penalty(
            discriminator, real, real.roll(-1, 0), alpha, relativistic
        )
        loss = class_loss + gp_weight * penalty
        parts |= {"gradient_penalty": penalty, "gradient_norm": gradient_norm}
    parts = {"discriminator_loss": loss} | parts
    return loss, {name: part.detach() for name, part in parts.items()}


def generator_loss(discriminator, fake, labels, class_weight=1.0, real=None):
    """Loss of the generator, a scalar, and its parts, a dict of detached scalars.

    L = -mean D(fake) + class_weight CE(fake); with real images, the relativistic loss: the first
    term is mean softplus(D(real) - D(fake)) over the pairs.
    fake, real: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,), the requested classes.
    Source: as discriminator_loss.
    """
    scores, class_logits = discriminator(fake)
    class_loss = F.cross_entropy(class_logits.float(), labels)
    if real is None:
        score_loss = -scores.float().mean()
    else:
        with torch.no_grad():
            real_scores, _ = discriminator(real)
        score_loss = F.softplus(real_scores.float() - scores.float()).mean()
    loss = score_loss + class_weight * class_loss
    parts = {"generator_loss": loss, "generator_class_loss": class_loss}
    return loss, {name: part.detach() for name, part in parts.items()}
