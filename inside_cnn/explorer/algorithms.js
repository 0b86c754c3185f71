// Predictions, attacks, maximization, ablation and samples. Images go in and come out as arrays of
// 3,072 levels in [0, 255], row by row, RGB. The formulas are those of inside_cnn/interpretability.

const PIXELS = 32 * 32 * 3;

/** Images as a tensor (n, 32, 32, 3) in [-1, 1]. */
function toTensor(images) {
  const levels = images.map((image) => tf.tensor(new Float32Array(image), [32, 32, 3]));
  return tf.stack(levels).div(127.5).sub(1);
}

/** A tensor (n, 32, 32, 3) in [-1, 1] as images of whole levels. */
function toImages(tensor) {
  const levels = tensor.add(1).mul(127.5).unstack();
  return levels.map((image) => new Uint8ClampedArray(image.dataSync())); // rounds
}

/** The prediction for each image: {probabilities: one of each class, score}. */
function predict(net, images) {
  return tf.tidy(() => {
    const { logits, scores } = net.outputs(toTensor(images));
    const probabilities = logits.softmax().arraySync();
    return scores.arraySync().map((score, i) => ({ probabilities: probabilities[i], score }));
  });
}

/** The feature maps of an image: the values of each, row by row. */
function featureMaps(net, image, layer) {
  const { side } = data.layers[layer - 1];
  return tf.tidy(() => net.features(toTensor([image]), layer)
    .reshape([side * side, net.width]).transpose().arraySync());
}

/** `count` uniform numbers in [0, 1), or of the standard normal distribution. seed: a text. */
const uniform = (count, seed) =>
  tf.tidy(() => tf.randomUniform([count], 0, 1, "float32", seed).dataSync());
const normals = (count, seed) =>
  tf.tidy(() => tf.randomNormal([count], 0, 1, "float32", seed).dataSync());

/** The gradient of an image's loss by its pixels: cross-entropy, or the margin to another class. */
function lossGradient(net, levels, label, margin) {
  const loss = (x) => {
    const { logits } = net.outputs(x);
    const others = () => logits.sub(tf.oneHot([label], classes.length).mul(1e9));
    return (margin ? others().max() : logits.logSumExp()).sub(logits.slice([0, label], [1, 1]));
  };
  return tf.tidy(() => tf.grad(loss)(toTensor([levels])).dataSync());
}

/** One step of `size` along the sign of the gradient, at most epsilon from the image. */
function signedStep(levels, image, gradient, size, epsilon) {
  return Float32Array.from(levels, (value, i) => clip(value + size * Math.sign(gradient[i]),
    Math.max(0, image[i] - epsilon), Math.min(255, image[i] + epsilon)));
}

/** The image with every pixel at a random place between -epsilon and epsilon, or at one of both. */
function randomNoise(image, epsilon, signs) {
  const random = uniform(image.length, `noise ${epsilon}`);
  return Float32Array.from(image, (value, i) => {
    const [low, high] = [Math.max(value - epsilon, 0), Math.min(value + epsilon, 255)];
    return low + (signs ? Math.round(random[i]) : random[i]) * (high - low);
  });
}

/** Projected gradient descent; yields the levels before each of 20 steps and after the last. */
function* projectedGradient(net, image, label, { epsilon, targeted, start }) {
  let levels = start ?? randomNoise(image, epsilon, false);
  for (let step = 0; step < 20; step++) {
    yield levels;
    const size = (targeted ? -2 : 2) * epsilon * (1 - step / 20);
    levels = signedStep(levels, image, lossGradient(net, levels, label, true), size, epsilon);
  }
  yield levels;
}

/** A function of images (1, 32, 32, 3). goal: {layer, index}, layer 0 for a class logit. With a
 * `place` [row, column] of the map it is that unit, otherwise the largest of the map. */
function objective(net, { layer, index, place }) {
  if (layer === 0) return (x) => net.outputs(x).logits.slice([0, index], [1, 1]).sum();
  const part = place ? [[0, ...place, index], [1, 1, 1, 1]] : [[0, 0, 0, index], [1, -1, -1, 1]];
  return (x) => net.features(x, layer).slice(...part).max();
}

/** Gradient ascent on the pixels; yields {image, value} before each step and after the last. */
function* pixelAscent(net, goal, start, { steps = 200 } = {}) {
  const valueAndGradient = tf.valueAndGrad(objective(net, goal));
  let levels = start;
  for (let step = 0; step <= steps; step++) {
    const next = tf.tidy(() => {
      const x = toTensor([levels]);
      const { value, grad } = valueAndGradient(x);
      const moved = x.add(grad.mul(0.1)).sub(x.mul(x.abs()).mul(0.001)).clipByValue(-1, 1);
      return { value: value.dataSync()[0], levels: moved.add(1).mul(127.5).dataSync() };
    });
    yield { image: new Uint8ClampedArray(levels), value: next.value, step, last: steps };
    levels = next.levels;
  }
}

/** The matrix (1024, 1088) from a Fourier spectrum (32, 17, real and imaginary part), with
 * amplitudes divided by the frequency as in photographs, to the pixels of a plane. */
function spectrumMatrix() {
  const matrix = new Float32Array(1024 * 1088);
  for (let column = 0; column < 32 * 17; column++) {
    const [v, h] = [Math.floor(column / 17), column % 17];
    const frequency = Math.max(1, Math.hypot(v < 16 ? v : v - 32, h)); // in cycles per image
    const scale = (h % 16 ? 2 : 1) / 32 / frequency;
    for (let i = 0; i < 1024; i++) {
      const angle = (Math.PI / 16) * (v * (i >> 5) + h * (i & 31));
      matrix[i * 1088 + 2 * column] = scale * Math.cos(angle);
      matrix[i * 1088 + 2 * column + 1] = -scale * Math.sin(angle);
    }
  }
  return tf.tensor(matrix, [1024, 1088]);
}

const COLORS = [[1, 1, 1], [0.6, 0, -0.6], [0.3, -0.6, 0.3]]; // gray, red-blue, purple-green

/** The image (1, 32, 32, 3) of a spectrum (1088, 3 colors). */
function fromSpectrum(spectrum, matrix) {
  return matrix.matMul(spectrum).matMul(tf.tensor(COLORS)).tanh().reshape([1, 32, 32, 3]);
}

/** The matrix (1024, 1024) of an affine view with bilinear interpolation and reflected edges.
 * map: [[a, b, x], [c, d, y]] in coordinates from -1 to 1, as of torch's affine_grid. */
function viewMatrix(map) {
  const reflect = (i) => clip(i < 0 ? -1 - i : i > 31 ? 63 - i : i, 0, 31);
  const [columns, rows] = map.map(([a, b, shift]) => { // of each pixel the weights of 32 columns
    const places = Array.from({ length: 1024 }, (_, i) =>
      reflect(a * ((i % 32) - 15.5) + b * ((i >> 5) - 15.5) + 16 * shift + 15.5));
    return tf.sub(1, tf.tensor(places, [1024, 1]).sub(tf.range(0, 32)).abs()).relu();
  });
  return rows.reshape([1024, 32, 1]).mul(columns.reshape([1024, 1, 32])).reshape([1024, 1024]);
}

/** A random affine map. views: {translation: pixels, center: [x, y]}; share: of all ranges. */
function randomMap({ translation, center }, share, seed) {
  const [turn, growth, ...shifts] = uniform(4, seed).map((value) => share * (2 * value - 1));
  const [angle, scale] = [(turn * 15 * Math.PI) / 180, 1 + growth * 0.25];
  const [cos, sin] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  return [[cos, -sin], [sin, cos]].map(([a, b], i) =>
    [a, b, (translation / 16) * shifts[i] + center[i] - (a * center[0] + b * center[1])]);
}

/** Mean absolute difference of neighboring pixels. */
function totalVariation(x) {
  const [below, right] = [[1, 0], [0, 1]].map(([v, h]) =>
    x.slice([0, v, h]).sub(x.slice([0, 0, 0], [1, 32 - v, 32 - h])).abs().mean());
  return below.add(right);
}

/** Adam on the Fourier spectrum over random views; yields as pixelAscent does. settle: the share of
 * the steps, at the end, in which the views shrink to the image itself. */
function* robustAscent(net, goal, { views, smoothness, settle, steps = 256 }) {
  const value = objective(net, goal);
  const matrix = spectrumMatrix();
  const spectrum = tf.variable(tf.randomNormal([1088, 3], 0, 0.1, "float32", "spectrum"));
  const optimizer = tf.train.adam(0.05, 0.9, 0.999, 1e-8);
  try {
    for (let step = 0; step <= steps; step++) {
      const weight = smoothness * Math.max(0, (step / steps - 0.25) / 0.75);
      // The last value is that of the image itself.
      const share = step < steps ? Math.min(1, (steps - step) / (settle * steps)) : 0;
      yield tf.tidy(() => {
        const view = viewMatrix(randomMap(views, share, `view ${step}`));
        const noise = tf.tensor(normals(PIXELS, `noise ${step}`), [1, 32, 32, 3]);
        const result = { step, last: steps };
        optimizer.minimize(() => {
          const image = fromSpectrum(spectrum, matrix);
          const seen = view.matMul(image.reshape([1024, 3])).reshape([1, 32, 32, 3]);
          const activation = value(seen.add(noise.mul(0.08 * share)));
          Object.assign(result, { image: toImages(image)[0], value: activation.dataSync()[0] });
          return totalVariation(image).mul(weight).sub(activation);
        }, false, [spectrum]);
        return result;
      });
    }
  } finally {
    [matrix, spectrum, optimizer].forEach((owner) => owner.dispose());
  }
}

/** The output of a layer for images, and of the next convolution if there is one. */
function keptActivations(net, layer, images) {
  return tf.tidy(() => {
    const x = net.features(toTensor(images), layer);
    return { x, next: net.layers[layer]?.convolve(x) };
  });
}

/** The predicted class of each image without some features of a layer, from keptActivations. From
 * the next convolution, their part is subtracted: this is cheaper than another convolution. */
function predictWithout(net, layer, features, { x, next }) {
  return tf.tidy(() => {
    const classesOf = (y, from) => net.outputs(y, from).logits.argMax(1).arraySync();
    if (!next) return classesOf(x.mul(maskOf(net.width, features)), layer);
    const { kernel, stride } = net.layers[layer];
    const part = tf.conv2d(x.gather(features, 3), kernel.gather(features, 2), stride, 1);
    return classesOf(normalize(next.sub(part), net.layers[layer]), layer + 1);
  });
}

/** A latent: the one-hot code of the class, or the shares of a mixture, then normal noise. */
function latentOf(net, { seed, label, number, shares = [] }) {
  const total = sum(shares);
  const code = classes.map((_, k) => (total ? shares[k] / total : +(k === label)));
  return [...code, ...normals(net.latentSize - code.length, `${seed} ${label} ${number}`)];
}

/** Between two latents: the class code along a line, the noise along an arc. */
function interpolate(start, end, t) {
  const [a, b] = [start, end].map((latent) => latent.slice(classes.length));
  const dot = (u, v) => sum(u.map((value, i) => value * v[i]));
  const angle = Math.acos(clip(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)), -1, 1));
  const arc = (share) => (angle > 1e-3 ? Math.sin(share * angle) / Math.sin(angle) : share);
  return start.map((value, i) => {
    const [from, to] = i < classes.length ? [1 - t, t] : [arc(1 - t), arc(t)];
    return from * value + to * end[i];
  });
}

/** The images of latents, without some channels of a block if it is given. */
function generate(net, latents, block, channels) {
  return tf.tidy(() => toImages(net.images(tf.tensor(latents), block, channels)));
}
