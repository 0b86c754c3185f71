"""The spatial frequencies a discriminator depends on: input gradients, and noise in bands.

Frequencies are radial, in cycles per pixel: 0 is the mean, 0.5 the finest stripes along an axis.
"""

import itertools

import torch

from inside_cnn.core.device import Stream, random_stream
from inside_cnn.engine.plots import save_charts
from inside_cnn.engine.statistics import paired_differences, percent, percent_interval
from inside_cnn.interpretability.adversarial import labeled_batches, loss_gradient, predict_classes
from inside_cnn.interpretability.network import line_styles

BANDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.75)  # edges of five bands, cycles per pixel
NOISE_RMS = 16.0  # of the noise, in pixel values of 0 to 255
IMAGES = 2000  # test images


def radial_frequencies(size):
    """The radial frequency of each coefficient of fft2, (size, size), in cycles per pixel."""
    axis = torch.fft.fftfreq(size)
    return (axis[:, None] ** 2 + axis**2).sqrt()


def in_bands(size):
    """The coefficients in each band of BANDS: bool (5, size, size)."""
    edges = torch.tensor(BANDS)[:, None, None]
    frequencies = radial_frequencies(size)
    return (frequencies >= edges[:-1]) & (frequencies < edges[1:])


def band_energy(images):
    """Share of each image's energy in each band: float (n, 3, h, h) -> float32 (n, 5)."""
    power = torch.fft.fft2(images.float()).abs().square().sum(1)
    energy = torch.einsum("nij,kij->nk", power, in_bands(images.shape[2]).to(images.device).float())
    return energy / energy.sum(1, keepdim=True).clamp_min(1e-30)


def band_noise(shape, band, generator):
    """Normal noise with the frequencies of one band, 0 to 4: float32 of this shape, (b, 3, h, h).

    The root mean square of each image's noise is NOISE_RMS.
    Source: Yin et al. 2019, A Fourier Perspective on Model Robustness in Computer Vision.
    """
    noise = torch.randn(shape, generator=generator, device=generator.device)
    noise = torch.fft.ifft2(torch.fft.fft2(noise) * in_bands(shape[2])[band].to(noise.device)).real
    return NOISE_RMS * noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()


def frequency_study(network, test_set):
    """The energy of the class margin's gradient in each band, and predictions under noise.

    The gradient is in the network's precision, predictions are in float32. Returns float32 (n, 5)
    and bool (6, n): whether the prediction is correct, first without noise, then under noise in
    each band.
    """
    energies, correct = [], []
    batches = labeled_batches(test_set.images, test_set.labels, f"frequency, {network.name}")
    for index, (batch, classes) in enumerate(batches):
        gradient, _ = loss_gradient(network, batch.float(), classes, margin=True)
        energies.append(band_energy(gradient).cpu())
        stream = random_stream(batch.device, 0, Stream.NOISE_IN_BANDS, index)
        noises = [band_noise(batch.shape, band, stream) for band in range(len(BANDS) - 1)]
        variants = [batch.float(), *((batch + noise).clamp(0, 255) for noise in noises)]
        predicted = torch.stack([predict_classes(network, variant) for variant in variants])
        correct.append((predicted == classes).cpu())
    return torch.cat(energies), torch.cat(correct, dim=1)


def frequency_section(networks, test_set, folder):
    """The study of all networks; returns {name: metrics}, shares in % for each band.

    `differences` are of the accuracy without noise minus that under noise, of the same images, and
    of the shares of the gradient's energy.
    Writes frequency.png to `folder`.
    """
    test_set = test_set.first(IMAGES)
    metrics_of, values_of, accuracies = {}, {}, {}
    bands = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(BANDS)]
    size = test_set.images.shape[2]
    means = [radial_frequencies(size)[band].mean().item() for band in in_bands(size)]
    white = [percent(band) for band in in_bands(size)]
    energies = {"white noise": (means, white, {"color": "0.6", "linestyle": ":"})}
    styles = line_styles(networks)
    for network in networks:
        name = network.name
        energy, (clean, *noisy) = frequency_study(network, test_set)
        metrics_of[name] = metrics = {
            "bands": list(BANDS),
            "white_energy": white,
            "gradient_energy": [percent(share) for share in energy.mean(0)],
            "noise_rms": NOISE_RMS,
            "accuracy": percent(clean),
            "interval": percent_interval(clean),
            "accuracy_under_noise": [percent(of_band) for of_band in noisy],
            "accuracy_lost": [round(percent(clean) - percent(of_band), 2) for of_band in noisy],
            "interval_under_noise": [percent_interval(of_band) for of_band in noisy],
            "images": len(test_set),
        }
        values_of[name] = {
            f"accuracy lost under noise of {band} cycles per pixel": clean.double() - under.double()
            for band, under in zip(bands, noisy, strict=True)
        } | {
            f"gradient energy of {band} cycles per pixel": of_band
            for band, of_band in zip(bands, energy.unbind(1), strict=True)
        }
        for key in ("gradient_energy", "accuracy", "accuracy_under_noise"):
            print(f"{name}, {key} in %, bands {BANDS}: {metrics[key]}")
        energies[name] = (means, metrics["gradient_energy"], styles[name])
        points = [metrics["accuracy"], *metrics["accuracy_under_noise"]]
        accuracies[name] = ([0.0, *means], points, styles[name])
    x = "frequency, cycles per pixel"
    gradient = {"x": x, "y": "share of its energy, %", "height": 50, "lines": energies}
    noise = {"x": x, "y": "accuracy, %", "height": 100, "lines": accuracies}
    noise_title = f"Noise in one band, rms {NOISE_RMS:g}/255 (at 0: without)"
    charts = {"Gradient of the class margin": gradient, noise_title: noise}
    save_charts(charts, folder / "frequency.png")
    differences = paired_differences(values_of)
    return {name: of | {"differences": differences[name]} for name, of in metrics_of.items()}
