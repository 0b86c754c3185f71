"""What the page computes equals what PyTorch computes with the same weights."""

import copy
import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from inside_cnn.data.pixels import to_signed
from inside_cnn.interpretability import activation_maximization as maximization
from inside_cnn.interpretability.adversarial import limits, loss_gradient, predict, signed_step
from inside_cnn.interpretability.network import Network
from inside_cnn.interpretability.objectives import class_logit, feature
from inside_cnn.interpretability.receptive_field import box, centers
from inside_cnn.metrics import sampling

SIZES = ["small", pytest.param("full_size", marks=pytest.mark.slow)]
PUBLISHED = pytest.mark.parametrize("size", SIZES)


def random_images(count, seed=0):
    """uint8 (count, 3, 32, 32): smooth ones, as photographs are."""
    stream = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=stream)
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def flat(images):
    """Images as the page's lists of levels."""
    return images.movedim(-3, -1).flatten(-3).tolist()


def image_of(levels):
    return torch.tensor(levels).unflatten(-1, (32, 32, 3)).movedim(-1, -3)


def call(page, function, *values):
    """Call a JavaScript function with values. As JSON: playwright takes minutes for long lists."""
    script = f"""(text) => JSON.stringify(({function})(...JSON.parse(text)),
        (_, value) => (ArrayBuffer.isView(value) ? [...value] : value))"""
    return json.loads(page.evaluate(script, json.dumps(values)))


def without(network, block, channels):
    """A copy in which the weights of the block's normalization are 0 for these channels."""
    network = copy.deepcopy(network)
    network.blocks[block - 1][1].weight.data[channels] = 0
    network.blocks[block - 1][1].bias.data[channels] = 0
    return network


@pytest.fixture
def opened(open_shared, request, size):
    pages = request.getfixturevalue(size)
    return pages, open_shared(pages.path, "tab=compare")


@PUBLISHED
def test_outputs_and_input_gradients(opened):
    pages, page = opened
    images = random_images(4)
    for index, network in enumerate(pages.networks):
        x = to_signed(images).requires_grad_()
        scores, logits = network(x)
        (expected,) = torch.autograd.grad(logits[:, 1].sum() + scores.sum(), x)
        results = call(
            page,
            """(index, images) => {
                const { net } = networks[index];
                const value = (x) => {
                  const { logits, scores } = net.outputs(x);
                  return tf.add(tf.sum(tf.slice(logits, [0, 1], [-1, 1])), tf.sum(scores));
                };
                const { logits, scores } = net.outputs(toTensor(images));
                return [scores, logits, tf.grad(value)(toTensor(images))].map((t) => t.arraySync());
            }""",
            index,
            flat(images),
        )
        got_scores, got_logits, gradient = map(torch.tensor, results)
        assert_close(got_scores, scores.detach(), rtol=1e-4, atol=1e-4 * scores.abs().max().item())
        assert_close(got_logits, logits.detach(), rtol=1e-4, atol=1e-4 * logits.abs().max().item())
        error = gradient.movedim(-1, 1) - expected
        assert error.norm() < 1e-4 * expected.norm()


@PUBLISHED
def test_feature_maps(opened):
    pages, page = opened
    image = random_images(1)
    for layer in (1, 2, 5, 8):
        maps = call(
            page,
            "(image, layer) => featureMaps(networks[0].net, image, layer)",
            flat(image)[0],
            layer,
        )
        expected = pages.networks[0].features(to_signed(image), layer)[0]
        assert (torch.tensor(maps).view_as(expected) - expected).norm() < 1e-4 * expected.norm()


@PUBLISHED
def test_generated_images_with_and_without_channels(opened):
    pages, page = opened
    latents = sampling.latents_of(torch.arange(3), pages.generator.latent_dim, seed=0)
    images = call(page, "(z) => generate(generator, z)", latents.tolist())
    difference = image_of(images) - sampling.generate(pages.generator, latents).int()
    assert difference.abs().max() <= 1
    assert (difference == 0).double().mean() > 0.999  # rounding at half a level
    removed = call(page, "(z) => generate(generator, z, 5, [0, 3])", latents.tolist())
    expected = without(pages.generator, 5, [0, 3])(latents)
    assert (image_of(removed) - (expected + 1) * 127.5).abs().max() < 0.6


@PUBLISHED
def test_attacks(opened, size):
    """20 steps: each step from PyTorch's own iterate, and the whole attack."""
    pages, page = opened
    network = Network("without G", pages.networks[0])
    images = random_images(16 if size == "full_size" else 4)
    labels = predict(network, images.float()).argmax(1)
    low, high = limits(images, 8)
    start = torch.lerp(low, high, torch.rand(images.shape, generator=torch.manual_seed(1)))
    levels, same = start, []
    for step in range(20):
        size = 2 * 8 * (1 - step / 20)
        gradient, _ = loss_gradient(network, levels, labels, margin=True)
        following = (levels + size * gradient.sign()).clamp(low, high)
        results = call(
            page,
            """(levels, images, labels, size) => levels.map((own, i) => {
                const gradient = lossGradient(networks[0].net, own, labels[i], true);
                return signedStep(Float32Array.from(own), images[i], gradient, size, 8);
            })""",
            flat(levels),
            flat(images),
            labels.tolist(),
            size,
        )
        same.append((image_of(results) - following).abs() < 1e-3)
        levels = following
    assert torch.stack(same).double().mean() >= 0.999
    attacked = call(
        page,
        """(images, labels, start) => images.map((image, i) => {
            const options = { epsilon: 8, targeted: false, start: Float32Array.from(start[i]) };
            return [...projectedGradient(networks[0].net, image, labels[i], options)].at(-1);
        })""",
        flat(images),
        labels.tolist(),
        flat(start),
    )
    attacked = image_of(attacked)
    assert ((attacked >= low) & (attacked <= high)).all()
    logits, expected = predict(network, attacked), predict(network, levels)
    own = labels[:, None]
    margin, expected_margin = (
        (each.scatter(1, own, -torch.inf).amax(1) - each.gather(1, own)[:, 0]).mean()
        for each in (logits, expected)
    )
    assert abs(margin - expected_margin) < 0.02 * expected_margin.abs()
    assert (logits.argmax(1) != expected.argmax(1)).sum() <= 1


@pytest.mark.parametrize("size", ["small"])
@pytest.mark.parametrize("targeted", [True, False])
def test_one_signed_step(opened, targeted):
    pages, page = opened
    network, images = Network("with G", pages.networks[1]), random_images(1)
    gradient, _ = loss_gradient(network, images.float(), torch.tensor([2]))
    expected = signed_step(images, gradient, 5, targeted)
    result = call(
        page,
        """(image, size) => {
            const gradient = lossGradient(networks[1].net, image, 2, false);
            return signedStep(Float32Array.from(image), image, gradient, size, 5);
        }""",
        flat(images)[0],
        -5 if targeted else 5,
    )
    assert (image_of(result) == expected[0]).double().mean() > 0.999


@pytest.mark.parametrize("size", ["small"])
def test_noise_stays_within_epsilon(opened):
    _, page = opened
    image = random_images(1)
    for signs in (True, False):
        noisy = call(page, "(image, signs) => randomNoise(image, 6, signs)", flat(image)[0], signs)
        low, high = limits(image, 6)
        noisy = image_of(noisy)
        assert ((noisy >= low[0] - 1e-4) & (noisy <= high[0] + 1e-4)).all()
        at_limit = (noisy == low[0]) | (noisy == high[0])
        assert at_limit.all() == signs


@pytest.mark.parametrize("size", ["small"])
def test_views_and_spectra(opened):
    pages, page = opened
    network = Network("", pages.networks[0])
    stream = torch.Generator().manual_seed(0)
    spectra = 0.3 * torch.randn(1, 3, 32, 17, 2, generator=stream)
    image = call(
        page,
        "(s) => fromSpectrum(tf.tensor(s), spectrumMatrix()).dataSync()",
        spectra[0].flatten(1).T.tolist(),
    )
    expected = maximization.from_spectra(spectra)
    assert_close(image_of(image), expected[0], rtol=0, atol=1e-5)
    views = maximization.VIEWS._replace(centers=centers(network, torch.tensor([[0, 3]]), 5))
    maps = maximization.sample_maps(4, views, stream)
    for map_ in maps:
        seen = call(
            page,
            "(m, x) => tf.matMul(viewMatrix(m), tf.reshape(tf.tensor(x), [1024, 3])).arraySync()",
            map_.tolist(),
            flat(expected)[0],
        )
        transformed = maximization.transform(expected, map_[None])[0]
        assert_close(
            image_of(torch.tensor(seen).flatten().tolist()), transformed, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("size", ["small"])
def test_pixel_ascent(opened):
    pages, page = opened
    network = Network("without G", pages.networks[0])
    start = to_signed(random_images(1))
    for layer, objective in (
        (0, partial(class_logit(3), network)),
        (6, partial(feature(6, 3), network)),
    ):
        expected = objective(maximization.ascent(objective, start, steps=10)).item()
        values = call(
            page,
            """(start, layer) => [...pixelAscent(networks[0].net, { layer, index: 3 },
                Float32Array.from(start), { steps: 10 })].map((step) => step.value)""",
            flat(random_images(1))[0],
            layer,
        )
        assert len(values) == 11
        assert values[-1] == pytest.approx(expected, rel=0.01)
        assert values[-1] > values[0]


@pytest.mark.parametrize("size", ["small"])
@pytest.mark.parametrize("goal", [{"layer": 0, "index": 3}, {"layer": 5, "index": 2}])
def test_robust_ascent_maximizes(opened, goal):
    """The final value is that of PyTorch, and larger than that of the start."""
    pages, page = opened
    place = [3, 4]
    first, last = call(
        page,
        """(goal) => {
            const views = { translation: 2, center: [0, 0] };
            const options = { views, smoothness: 5, settle: 0.25, steps: 40 };
            const steps = [...robustAscent(networks[0].net, goal, options)];
            return [steps[0], steps.at(-1)];
        }""",
        goal | ({"place": place} if goal["layer"] else {}),
    )
    x = to_signed(image_of(last["image"])[None])
    network = pages.networks[0]
    if goal["layer"]:
        value = network.features(x, goal["layer"])[0, goal["index"], 3, 4]
    else:
        value = network(x)[1][0, goal["index"]]
    assert last["value"] == pytest.approx(value.item(), rel=0.05)
    assert last["value"] > first["value"] + 1


@PUBLISHED
@pytest.mark.parametrize("layer", [1, 4, 8])
def test_ablation(opened, layer):
    pages, page = opened
    images = random_images(20)
    network = pages.networks[0]
    features = list(range(0, network.width, 2))
    expected = without(network, layer, features)(to_signed(images))[1].argmax(1).tolist()
    predicted = call(
        page,
        """(images, layer, features) => {
            const { net } = networks[0];
            return predictWithout(net, layer, features, keptActivations(net, layer, images));
        }""",
        flat(images),
        layer,
        features,
    )
    assert predicted == expected


@pytest.mark.parametrize("size", ["small"])
def test_receptive_fields(opened):
    pages, page = opened
    network = Network("", pages.networks[0])
    for layer, row, column in ((1, 0, 31), (4, 7, 2), (8, 3, 0)):
        top, left, bottom, right = box(network, layer, row, column)
        got = call(page, "boxOf", layer, row, column)
        assert got == [left, top, right, bottom]


@pytest.mark.parametrize("size", ["small"])
def test_latents(opened):
    _, page = opened
    start, same, other, mixed, middle, end = call(
        page,
        """() => {
            const at = (values) => latentOf(generator, { seed: 0, label: 2, number: 5, ...values });
            const [start, end] = [at({}), at({ label: 3 })];
            return [start, at({}), at({ seed: 1 }), at({ shares: [1, 3, 0, 0, 0, 0, 0, 0, 0, 0] }),
                    interpolate(start, end, 0.5), end];
        }""",
    )
    assert start == same != other
    assert start[:10] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert mixed == [0.25, 0.75, *[0] * 8, *start[10:]]
    assert middle[2:4] == [0.5, 0.5]
    norms = [torch.tensor(latent[10:]).norm() for latent in (start, middle, end)]
    assert abs(norms[1] - (norms[0] + norms[2]) / 2) < 0.1 * norms[0]  # on the arc, not the line
    noise = call(page, "() => normals(20000, 'seed')")
    assert abs(torch.tensor(noise).mean()) < 0.03
    assert abs(torch.tensor(noise).std() - 1) < 0.03
