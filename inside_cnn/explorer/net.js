// Both networks in TensorFlow.js. Tensors of images are (b, 32, 32, 3) in [-1, 1], feature maps
// (b, h, w, c). Only this file and algorithms.js use the library.
"use strict";

const MAP_SIZES = [32, 16, 16, 8, 8, 8, 8, 4]; // side of the map after each layer
const LAYERS = MAP_SIZES.length;

/** Select a backend: `wasm`, with the bytes of its binary the first time, or `webgl`. */
async function startBackend(name, binary) {
  if (binary) {
    const url = URL.createObjectURL(new Blob([binary], { type: "application/wasm" }));
    const names = ["", "-simd", "-threaded-simd"].map((kind) => `tfjs-backend-wasm${kind}.wasm`);
    tf.wasm.setWasmPaths(Object.fromEntries(names.map((file) => [file, url])));
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  }
  if (!(await tf.setBackend(name))) throw new Error(`this browser does not support ${name}`);
}

/** The tensors of a safetensors file, {name: {shape, data}}, with 8-bit weights as floats. */
function readWeights(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const types = { F32: Float32Array, I8: Int8Array };
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: range }] of Object.entries(header)) {
    if (!types[dtype]) continue; // metadata, and the number of batches of BatchNorm
    const [start, end] = range.map((offset) => 8 + length + offset);
    tensors[name] = { shape, data: new Float32Array(new types[dtype](buffer.slice(start, end))) };
  }
  for (const [name, { data }] of Object.entries(tensors)) {
    const scales = tensors[`${name}.scale`]?.data ?? [];
    const size = data.length / scales.length;
    scales.forEach((scale, row) => {
      for (let i = row * size; i < (row + 1) * size; i++) data[i] *= scale;
    });
  }
  return (name) => tf.tensor(tensors[name].data, tensors[name].shape);
}

const KERNEL = [2, 3, 1, 0]; // PyTorch's axes of a convolution to (h, w, in, out)
// In a transposed convolution of stride 2 and padding 1, the even and the odd rows of the output
// depend on different rows of the kernel. For each kernel size, these rows and their padding.
const PHASES = {
  3: [{ taps: [1], pad: [0, 0] }, { taps: [2, 0], pad: [0, 1] }],
  4: [{ taps: [3, 1], pad: [1, 0] }, { taps: [2, 0], pad: [0, 1] }],
};

/** The kernel with these rows and columns. tf.gather and tf.reverse are slow in WASM. */
function pick(kernel, rows, columns) {
  const chosen = tf.concat(rows.map((i) => tf.slice(kernel, [i], [1])), 0);
  return tf.concat(columns.map((i) => tf.slice(chosen, [0, i], [-1, 1])), 1);
}

/** A transposed convolution of stride 2, as convolutions without products with zeros. */
function transposedConvolution(kernel) {
  const phases = PHASES[kernel.shape[0]];
  const parts = phases.map((row) => phases.map((column) => ({
    kernel: pick(kernel, row.taps, column.taps),
    pad: [[0, 0], row.pad, column.pad, [0, 0]],
  })));
  return (x) => {
    const [b, h, w] = x.shape;
    const convolve = (part) => tf.conv2d(x, part.kernel, 1, part.pad);
    const rows = parts.map((row) => tf.stack(row.map(convolve), 3));
    return tf.reshape(tf.stack(rows, 2), [b, 2 * h, 2 * w, -1]);
  };
}

/** A 3x3 convolution with padding 1. Its gradient is a convolution too, which is three times as
 * fast as the library's own kernel in WASM. */
function convolution(kernel, stride) {
  const swapped = tf.transpose(kernel, [0, 1, 3, 2]);
  const flipped = pick(swapped, [2, 1, 0], [2, 1, 0]);
  const backward = stride === 2
    ? transposedConvolution(swapped)
    : (dy) => tf.conv2d(dy, flipped, 1, 1);
  return tf.customGrad((x) => ({ value: tf.conv2d(x, kernel, stride, 1), gradFunc: backward }));
}

/** The mean of each map, (b, h, w, c) -> (b, 1, 1, 1), first by rows: one sum would lose digits. */
function average(x) {
  const [b, h] = x.shape;
  return tf.reshape(tf.mean(tf.mean(tf.reshape(x, [b, h, -1]), 2), 1), [b, 1, 1, 1]);
}

/** LayerNorm over each map, then LeakyReLU. The gradient by hand is 12 % faster. */
const normalize = (y, gain, offset) => tf.customGrad((x, save) => {
  const centered = tf.sub(x, average(x));
  const scale = tf.rsqrt(tf.add(average(tf.square(centered)), 1e-5));
  const normalized = tf.mul(centered, scale);
  const z = tf.add(tf.mul(normalized, gain), offset);
  save([normalized, scale, z]);
  return {
    value: tf.sub(tf.relu(z), tf.mul(tf.relu(tf.neg(z)), 0.01)), // tf.leakyRelu is slow in WASM
    gradFunc: (dy, [u, std, output]) => {
      const g = tf.mul(tf.mul(dy, tf.add(tf.mul(tf.step(output), 0.99), 0.01)), gain);
      const along = tf.mul(u, average(tf.mul(g, u)));
      return tf.mul(tf.sub(tf.sub(g, average(g)), along), std);
    },
  };
})(y);

class Discriminator {
  /** get: from readWeights. */
  constructor(get) {
    this.layers = MAP_SIZES.map((size, i) => {
      const kernel = tf.transpose(get(`blocks.${i}.0.weight`), KERNEL);
      const stride = size < (MAP_SIZES[i - 1] ?? 32) ? 2 : 1;
      return {
        kernel,
        stride,
        convolve: convolution(kernel, stride),
        bias: get(`blocks.${i}.0.bias`),
        gain: tf.transpose(get(`blocks.${i}.1.weight`), [1, 2, 0]),
        offset: tf.transpose(get(`blocks.${i}.1.bias`), [1, 2, 0]),
      };
    });
    const heads = ["class_head", "critic_head"];
    this.heads = heads.map((head) => [get(`${head}.weight`), get(`${head}.bias`)]);
    this.width = this.layers[0].bias.size;
  }

  /** LayerNorm and LeakyReLU of a convolution's output. */
  activate(x, { bias, gain, offset }) {
    return normalize(tf.add(x, bias), gain, offset);
  }

  /** The output of layer `to` (1 to 8) from that of layer `from`; 0: from images. */
  features(x, to = LAYERS, from = 0) {
    const layers = this.layers.slice(from, to);
    return layers.reduce((y, layer) => this.activate(layer.convolve(y), layer), x);
  }

  /** {logits (b, classes), scores (b,)} from the output of layer `from`; 0: from images. */
  outputs(x, from = 0) {
    const pooled = tf.max(this.features(x, LAYERS, from), [1, 2]);
    const head = ([weight, bias]) => tf.add(tf.matMul(pooled, weight, false, true), bias);
    const [logits, scores] = this.heads.map(head);
    return { logits, scores: tf.squeeze(scores, [1]) };
  }
}

class Generator {
  /** get: from readWeights. */
  constructor(get) {
    const affine = (name) => { // BatchNorm in eval mode
      const std = tf.sqrt(tf.add(get(`${name}.running_var`), 1e-5));
      const scale = tf.div(get(`${name}.weight`), std);
      return { scale, shift: tf.sub(get(`${name}.bias`), tf.mul(get(`${name}.running_mean`), scale)) };
    };
    const weight = get("project.0.weight");
    const convolve = (x) => tf.matMul(x, weight, false, true);
    this.project = { convolve, bias: get("project.0.bias"), ...affine("project.1") };
    this.blocks = [1, 0, 0, 0, 1, 0, 1].map((doubles, i) => {
      const kernel = tf.transpose(get(`blocks.${i}.0.weight`), KERNEL);
      const convolve = doubles // its weights are (in, out, h, w) in PyTorch
        ? transposedConvolution(tf.transpose(kernel, [0, 1, 3, 2]))
        : (x) => tf.conv2d(x, kernel, 1, 1);
      return { convolve, bias: get(`blocks.${i}.0.bias`), ...affine(`blocks.${i}.1`) };
    });
    this.toRgb = { kernel: tf.transpose(get("to_rgb.weight"), KERNEL), bias: get("to_rgb.bias") };
    this.width = this.blocks[0].bias.size;
    this.latentSize = weight.shape[1];
  }

  /** latents (b, latentSize) -> images. The output of `block` (1 to 7) is multiplied by `mask`. */
  images(latents, block, mask) {
    const compute = (x, { convolve, bias, scale, shift }) =>
      tf.relu(tf.add(tf.mul(tf.add(convolve(x), bias), scale), shift));
    const start = tf.reshape(compute(latents, this.project), [-1, this.width, 4, 4]);
    const last = this.blocks.reduce((x, layer, i) => {
      const y = compute(x, layer);
      return i + 1 === block ? tf.mul(y, mask) : y;
    }, tf.transpose(start, [0, 2, 3, 1]));
    return tf.tanh(tf.add(tf.conv2d(last, this.toRgb.kernel, 1, 1), this.toRgb.bias));
  }
}
