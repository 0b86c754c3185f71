// Both networks in TensorFlow.js. Tensors of images are (b, 32, 32, 3) in [-1, 1], feature maps
// (b, h, w, c). Only this file and algorithms.js use the library.

const LAYERS = data.layers.length;
const KERNEL = [2, 3, 1, 0]; // PyTorch's axes of a convolution to (h, w, in, out)

tf.wasm.setWasmPaths(`data:application/wasm;base64,${data.wasm}#`); // it appends a file's name
tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);

/** The bytes of a base64 text. Fetching a data URL takes ten times as long. */
function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The tensors of a safetensors file, as a function of their name, with 8-bit weights as floats. */
function readWeights(base64) {
  const { buffer } = bytesOf(base64);
  const start = 8 + new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(buffer.slice(8, start)));
  const types = { F32: Float32Array, I8: Int8Array };
  const read = (name) => {
    const { dtype, shape, data_offsets: [first, last] } = header[name];
    const values = new types[dtype](buffer.slice(start + first, start + last));
    return tf.tensor(new Float32Array(values), shape);
  };
  return (name) => tf.tidy(() => {
    const weight = read(name);
    if (!header[`${name}.scale`]) return weight;
    const scale = read(`${name}.scale`); // of each index of the first axis
    return weight.mul(scale.reshape(weight.shape.map((size, axis) => (axis ? 1 : size))));
  });
}

/** The kernel with these rows and columns. tf.gather and tf.stridedSlice are slow in WASM. */
function pick(kernel, rows, columns) {
  const chosen = tf.concat(rows.map((i) => kernel.slice([i], [1])), 0);
  return tf.concat(columns.map((i) => chosen.slice([0, i], [-1, 1])), 1);
}

/** A transposed convolution of stride 2 and padding 1, as convolutions without products with zeros:
 * even and odd rows of the output depend on different rows of the kernel. */
function transposedConvolution(kernel) {
  const size = kernel.shape[0]; // 3 or 4
  const even = { taps: size === 3 ? [1] : [3, 1], pad: [size - 3, 0] };
  const phases = [even, { taps: [2, 0], pad: [0, 1] }];
  const parts = phases.map((row) => phases.map((column) => ({
    kernel: pick(kernel, row.taps, column.taps),
    pad: [[0, 0], row.pad, column.pad, [0, 0]],
  })));
  return (x) => {
    const [b, h, w] = x.shape;
    const convolve = (part) => tf.conv2d(x, part.kernel, 1, part.pad);
    const rows = parts.map((row) => tf.stack(row.map(convolve), 3));
    return tf.stack(rows, 2).reshape([b, 2 * h, 2 * w, -1]);
  };
}

/** A 3x3 convolution with padding 1. Its gradient is a convolution too, which is three times as
 * fast as the library's own kernel in WASM. */
function convolution(kernel, stride) {
  const swapped = kernel.transpose([0, 1, 3, 2]);
  const flipped = pick(swapped, [2, 1, 0], [2, 1, 0]);
  const backward = stride === 2
    ? transposedConvolution(swapped)
    : (dy) => tf.conv2d(dy, flipped, 1, 1);
  return tf.customGrad((x) => ({ value: tf.conv2d(x, kernel, stride, 1), gradFunc: backward }));
}

/** The mean of each image, (b, h, w, c) -> (b, 1, 1, 1), first by rows: one sum loses digits. */
const average = (x) => x.mean([2, 3], true).mean(1, true);

/** Bias, LayerNorm over each image and LeakyReLU. The gradient by hand is 12 % faster. */
const normalize = (y, { bias, gain, offset }) => tf.customGrad((x, save) => {
  const centered = x.sub(average(x));
  const scale = average(centered.square()).add(1e-5).rsqrt();
  const normalized = centered.mul(scale);
  const z = normalized.mul(gain).add(offset);
  save([normalized, scale, z]);
  return {
    value: z.relu().sub(z.neg().relu().mul(0.01)), // tf.leakyRelu is slow in WASM
    gradFunc: (dy, [u, std, output]) => {
      const g = dy.mul(output.step(0.01)).mul(gain);
      return g.sub(average(g)).sub(u.mul(average(g.mul(u)))).mul(std);
    },
  };
})(y.add(bias));

class Discriminator { // tensor: from readWeights
  constructor(tensor) {
    this.layers = data.layers.map(({ stride: total }, i) => {
      const kernel = tensor(`blocks.${i}.0.weight`).transpose(KERNEL);
      const stride = total / (data.layers[i - 1]?.stride ?? 1);
      return {
        kernel,
        stride,
        convolve: convolution(kernel, stride),
        bias: tensor(`blocks.${i}.0.bias`),
        gain: tensor(`blocks.${i}.1.weight`).transpose([1, 2, 0]),
        offset: tensor(`blocks.${i}.1.bias`).transpose([1, 2, 0]),
      };
    });
    const heads = ["class_head", "critic_head"];
    this.heads = heads.map((head) => [tensor(`${head}.weight`), tensor(`${head}.bias`)]);
    this.width = this.layers[0].bias.size;
  }

  /** The output of layer `to` (1 to 8) from that of layer `from`; 0: from images. */
  features(x, to = LAYERS, from = 0) {
    const layers = this.layers.slice(from, to);
    return layers.reduce((y, layer) => normalize(layer.convolve(y), layer), x);
  }

  /** {logits (b, classes), scores (b,)} from the output of layer `from`; 0: from images. */
  outputs(x, from = 0) {
    const pooled = this.features(x, LAYERS, from).max([1, 2]);
    const head = ([weight, bias]) => tf.matMul(pooled, weight, false, true).add(bias);
    const [logits, scores] = this.heads.map(head);
    return { logits, scores: scores.squeeze([1]) };
  }
}

/** A vector of ones, with zeros at these channels. */
function maskOf(width, channels) {
  return tf.tensor(Array.from({ length: width }, (_, channel) => +!channels.includes(channel)));
}

class Generator { // tensor: from readWeights
  constructor(tensor) {
    const layer = (name, convolve) => {
      const bias = tensor(`${name}.0.bias`);
      const parts = ["running_mean", "running_var", "bias", "weight"];
      const [mean, variance, shift, scale] = parts.map((part) => tensor(`${name}.1.${part}`));
      return (x) => tf.batchNorm(convolve(x).add(bias), mean, variance, shift, scale, 1e-5).relu();
    };
    const weight = tensor("project.0.weight");
    this.project = layer("project", (x) => tf.matMul(x, weight, false, true));
    this.blocks = [1, 0, 0, 0, 1, 0, 1].map((doubles, i) => {
      const kernel = tensor(`blocks.${i}.0.weight`).transpose(KERNEL);
      return layer(`blocks.${i}`, doubles // its weights are (in, out, h, w) in PyTorch
        ? transposedConvolution(kernel.transpose([0, 1, 3, 2]))
        : (x) => tf.conv2d(x, kernel, 1, 1));
    });
    this.toRgb = { kernel: tensor("to_rgb.weight").transpose(KERNEL), bias: tensor("to_rgb.bias") };
    this.width = weight.shape[0] / 16;
    this.latentSize = weight.shape[1];
  }

  /** latents (b, latentSize) -> images, without these channels of the output of `block`, 1 to 7. */
  images(latents, block, channels) {
    const start = this.project(latents).reshape([-1, this.width, 4, 4]).transpose([0, 2, 3, 1]);
    const last = this.blocks.reduce((x, compute, i) =>
      (i + 1 === block ? compute(x).mul(maskOf(this.width, channels)) : compute(x)), start);
    return tf.conv2d(last, this.toRgb.kernel, 1, 1).add(this.toRgb.bias).tanh();
  }
}
