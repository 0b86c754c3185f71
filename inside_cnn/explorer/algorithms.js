// Predictions, attacks, maximization, ablation and samples. Images go in and come out as arrays of
// 3,072 levels in [0, 255], row by row, RGB. The formulas are those of inside_cnn/interpretability.
"use strict";

const PIXELS = 32 * 32 * 3;

/** Images as a tensor (n, 32, 32, 3) in [-1, 1]. */
function toTensor(images) {
  const levels = new Float32Array(images.length * PIXELS);
  images.forEach((image, i) => levels.set(image, i * PIXELS));
  return tf.sub(tf.div(tf.tensor(levels, [images.length, 32, 32, 3]), 127.5), 1);
}

/** A tensor (n, 32, 32, 3) in [-1, 1] as images of whole levels. */
function toImages(tensor) {
  const levels = tf.mul(tf.add(tensor, 1), 127.5).dataSync(); // rounded by the array
  return Array.from({ length: levels.length / PIXELS },
    (_, i) => new Uint8ClampedArray(levels.subarray(i * PIXELS, (i + 1) * PIXELS)));
}

/** The prediction for each image: {probabilities: one of each class, score}. */
function predict(net, images) {
  return tf.tidy(() => {
    const { logits, scores } = net.outputs(toTensor(images));
    const probabilities = tf.softmax(logits).arraySync();
    return [...scores.dataSync()].map((score, i) => ({ probabilities: probabilities[i], score }));
  });
}

/** The feature maps of an image: {values: (h, w, c) as one array, side, width}. */
function featureMaps(net, image, layer) {
  const values = tf.tidy(() => net.features(toTensor([image]), layer).dataSync());
  return { values, side: MAP_SIZES[layer - 1], width: net.width };
}

// ---------------------------------------------------------------------------- random numbers

/** A function that returns uniform numbers in [0, 1): Mulberry32 of a hash of the seeds. */
function uniform(...seeds) {
  let state = seeds.reduce((hash, seed) => Math.imul(hash ^ (seed + 1), 0x9e3779b1), 0x1234567);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` numbers of the standard normal distribution. */
function normals(count, random) {
  const radius = () => Math.sqrt(-2 * Math.log(1 - random()));
  return Float32Array.from({ length: count }, () => radius() * Math.cos(2 * Math.PI * random()));
}

// ---------------------------------------------------------------------------- attacks

/** The gradient of an image's loss by its pixels: cross-entropy, or the margin to another class. */
function lossGradient(net, levels, label, margin) {
  return tf.tidy(() => tf.grad((x) => {
    const { logits } = net.outputs(x);
    const own = tf.slice(logits, [0, label], [1, 1]);
    const hidden = tf.mul(tf.oneHot([label], logits.shape[1]), 1e9);
    return tf.sub(margin ? tf.max(tf.sub(logits, hidden)) : tf.logSumExp(logits), own);
  })(toTensor([levels])).dataSync());
}

/** One step of `size` along the sign of the gradient, at most epsilon from the image. */
function signedStep(levels, image, gradient, size, epsilon) {
  return levels.map((value, i) => {
    const moved = Math.fround(value + size * Math.sign(gradient[i]));
    return Math.min(Math.max(moved, 0, image[i] - epsilon), 255, image[i] + epsilon);
  });
}

/** The image with every pixel at a random place between -epsilon and epsilon, or at one of both. */
function randomNoise(image, epsilon, signs) {
  const random = uniform(epsilon);
  return Float32Array.from(image, (value) => {
    const share = signs ? Math.round(random()) : random();
    const low = Math.max(value - epsilon, 0);
    return low + share * (Math.min(value + epsilon, 255) - low);
  });
}

/** Projected gradient descent; yields the levels before each step and after the last one. */
function* projectedGradient(net, image, label, { epsilon, targeted, start, steps = 20 }) {
  let levels = start ?? randomNoise(image, epsilon, false);
  for (let step = 0; step < steps; step++) {
    yield levels;
    const size = (targeted ? -2 : 2) * epsilon * (1 - step / steps);
    levels = signedStep(levels, image, lossGradient(net, levels, label, true), size, epsilon);
  }
  yield levels;
}

// ---------------------------------------------------------------------------- maximization

/** A function of images (1, 32, 32, 3). goal: {layer, index}, layer 0 for a class logit. With a
 * `place` [row, column] of the map it is that unit, otherwise the largest of the map. */
function objective(net, { layer, index, place }) {
  return (x) => {
    if (layer === 0) return tf.sum(tf.slice(net.outputs(x).logits, [0, index], [1, 1]));
    const size = MAP_SIZES[layer - 1];
    const [begin, extent] = place ? [[0, ...place, index], [1, 1, 1, 1]]
      : [[0, 0, 0, index], [1, size, size, 1]];
    return tf.max(tf.slice(net.features(x, layer), begin, extent));
  };
}

/** Gradient ascent on the pixels; yields {image, value} before each step and after the last. */
function* pixelAscent(net, goal, start, { steps = 200, rate = 0.1, decay = 0.001 } = {}) {
  const valueAndGradient = tf.valueAndGrad(objective(net, goal));
  let levels = start;
  for (let step = 0; step <= steps; step++) {
    const next = tf.tidy(() => {
      const x = toTensor([levels]);
      const { value, grad } = valueAndGradient(x);
      const change = tf.sub(tf.mul(grad, rate), tf.mul(tf.mul(x, tf.abs(x)), decay));
      const moved = tf.clipByValue(tf.add(x, change), -1, 1);
      return { value: value.dataSync()[0], levels: tf.mul(tf.add(moved, 1), 127.5).dataSync() };
    });
    yield { image: new Uint8ClampedArray(levels), value: next.value, step, steps };
    levels = next.levels;
  }
}

/** The matrix (1024, 1088) from a Fourier spectrum (32, 17, real and imaginary part), with
 * amplitudes divided by the frequency as in photographs, to the pixels of a plane. */
function spectrumMatrix() {
  const matrix = new Float32Array(1024 * 1088);
  for (let v = 0; v < 32; v++) {
    for (let h = 0; h < 17; h++) {
      const frequency = Math.max(1, Math.hypot(v < 16 ? v : v - 32, h)); // in cycles per image
      const scale = (h % 16 ? 2 : 1) / 32 / frequency;
      for (let i = 0; i < 1024; i++) {
        const angle = (2 * Math.PI * (v * (i >> 5) + h * (i & 31))) / 32;
        const at = i * 1088 + 2 * (17 * v + h);
        matrix[at] = scale * Math.cos(angle);
        matrix[at + 1] = -scale * Math.sin(angle);
      }
    }
  }
  return tf.tensor(matrix, [1024, 1088]);
}

const COLORS = [[1, 1, 1], [0.6, 0, -0.6], [0.3, -0.6, 0.3]]; // gray, red-blue, purple-green

/** The image (1, 32, 32, 3) of a spectrum (1088, 3 colors). */
function fromSpectrum(spectrum, matrix) {
  return tf.reshape(tf.tanh(tf.matMul(tf.matMul(matrix, spectrum), tf.tensor(COLORS))), [1, 32, 32, 3]);
}

/** The matrix (1024, 1024) of an affine view with bilinear interpolation and reflected edges.
 * map: [[a, b, x], [c, d, y]] in coordinates from -1 to 1, as of torch's affine_grid. */
function viewMatrix(map) {
  const matrix = new Float32Array(1024 * 1024);
  const reflect = (i) => Math.min(i < 0 ? -1 - i : i > 31 ? 63 - i : i, 31);
  for (let i = 0; i < 1024; i++) {
    const [x, y] = [((i & 31) + 0.5) / 16 - 1, ((i >> 5) + 0.5) / 16 - 1];
    const [column, row] = map.map(([a, b, shift]) => 16 * (a * x + b * y + shift + 1) - 0.5);
    const [left, top] = [Math.floor(column), Math.floor(row)];
    for (const [r, c] of [[top, left], [top, left + 1], [top + 1, left], [top + 1, left + 1]]) {
      const weight = (1 - Math.abs(row - r)) * (1 - Math.abs(column - c));
      matrix[i * 1024 + 32 * reflect(r) + reflect(c)] += weight;
    }
  }
  return tf.tensor(matrix, [1024, 1024]);
}

/** A random affine map. views: {translation: pixels, center: [x, y]}; share: of all ranges. */
function randomMap({ translation, center = [0, 0] }, share, random) {
  const range = (limit) => share * limit * (2 * random() - 1);
  const [angle, scale] = [(range(15) * Math.PI) / 180, 1 + range(0.25)];
  const [cos, sin] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  return [[cos, -sin], [sin, cos]].map(([a, b], i) => {
    const shift = range(translation) / 16 + center[i] - (a * center[0] + b * center[1]);
    return [a, b, shift];
  });
}

/** Mean absolute difference of neighboring pixels. */
function totalVariation(x) {
  const difference = (first, second) => tf.mean(tf.abs(tf.sub(first, second)));
  const part = (row, column, h, w) => tf.slice(x, [0, row, column, 0], [1, h, w, 3]);
  return tf.add(difference(part(1, 0, 31, 32), part(0, 0, 31, 32)),
    difference(part(0, 1, 32, 31), part(0, 0, 32, 31)));
}

/** Adam on the Fourier spectrum over random views; yields as pixelAscent does. settle: the share of
 * the steps, at the end, in which the views shrink to the image itself. */
function* robustAscent(net, goal, { views, smoothness, settle, seed = 0, steps = 256 }) {
  const random = uniform(seed);
  const value = objective(net, goal);
  const matrix = spectrumMatrix();
  const spectrum = tf.variable(tf.mul(tf.tensor(normals(1088 * 3, random), [1088, 3]), 0.1));
  const optimizer = tf.train.adam(0.05, 0.9, 0.999, 1e-8);
  try {
    for (let step = 0; step < steps; step++) {
      const weight = smoothness * Math.max(0, (step / steps - 0.25) / 0.75);
      const share = settle ? Math.min(1, (steps - step) / (settle * steps)) : 1;
      yield tf.tidy(() => {
        const view = viewMatrix(randomMap(views, share, random));
        const noise = tf.tensor(normals(PIXELS, random), [1, 32, 32, 3]);
        const result = { step, steps };
        const loss = () => {
          const image = fromSpectrum(spectrum, matrix);
          const seen = tf.reshape(tf.matMul(view, tf.reshape(image, [1024, 3])), [1, 32, 32, 3]);
          const activation = value(tf.add(seen, tf.mul(noise, 0.08 * share)));
          Object.assign(result, { image: toImages(image)[0], value: activation.dataSync()[0] });
          return tf.sub(tf.mul(totalVariation(image), weight), activation);
        };
        optimizer.applyGradients(tf.variableGrads(loss, [spectrum]).grads);
        return result;
      });
    }
    yield tf.tidy(() => {
      const image = fromSpectrum(spectrum, matrix);
      return { image: toImages(image)[0], value: value(image).dataSync()[0], step: steps, steps };
    });
  } finally {
    [matrix, spectrum, optimizer].forEach((owner) => owner.dispose());
  }
}

// ---------------------------------------------------------------------------- ablation

/** A network without some features of a layer, on images whose activations are kept. */
class Ablation {
  constructor(net, layer) {
    [this.net, this.layer, this.batches] = [net, layer, []];
  }

  /** Keep the activations of a batch of images. */
  add(images) {
    const { net, layer } = this;
    this.batches.push(tf.tidy(() => {
      const x = net.features(toTensor(images), layer);
      return { x, next: layer < LAYERS ? net.layers[layer].convolve(x) : null };
    }));
  }

  /** The predicted class of each image of a batch without these features. From the output of the
   * next convolution, their part is subtracted: this is cheaper than another convolution. */
  predict({ x, next }, features) {
    return [...tf.tidy(() => {
      const { net, layer } = this;
      const mask = maskOf(net.width, features);
      if (!next) return tf.argMax(net.outputs(tf.mul(x, mask), LAYERS).logits, 1).dataSync();
      const { kernel, stride } = net.layers[layer];
      const part = features.length
        ? tf.conv2d(tf.gather(x, features, 3), tf.gather(kernel, features, 2), stride, 1) : 0;
      const y = net.activate(tf.sub(next, part), net.layers[layer]);
      return tf.argMax(net.outputs(y, layer + 1).logits, 1).dataSync();
    })];
  }

  dispose() {
    tf.dispose(this.batches);
  }
}

/** A vector of ones, with zeros at these channels. */
function maskOf(width, channels) {
  const mask = new Float32Array(width).fill(1);
  channels.forEach((channel) => (mask[channel] = 0));
  return tf.tensor(mask);
}

// ---------------------------------------------------------------------------- samples

/** A latent: the one-hot code of the class, or the shares of a mixture, then normal noise. */
function latentOf(net, { seed, label, number, shares = [] }) {
  const count = data.classes.length;
  const total = shares.reduce((sum, share) => sum + share, 0);
  const code = Array.from({ length: count }, (_, k) => (total ? shares[k] / total : +(k === label)));
  return [...code, ...normals(net.latentSize - count, uniform(seed, label, number))];
}

/** Between two latents: the class code along a line, the noise along an arc. */
function interpolate(start, end, t) {
  const count = data.classes.length;
  const [a, b] = [start.slice(count), end.slice(count)];
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const arc = angle > 1e-3;
  const [from, to] = arc ? [1 - t, t].map((s) => Math.sin(s * angle) / Math.sin(angle)) : [1 - t, t];
  return start.map((value, i) =>
    i < count ? (1 - t) * value + t * end[i] : from * value + to * end[i]);
}

/** The images of latents, without some channels of a block (0: with all). */
function generate(net, latents, block = 0, channels = []) {
  return tf.tidy(() => toImages(net.images(tf.tensor(latents), block, maskOf(net.width, channels))));
}
