// The image that Attack, Activations and Compare use, and the start of the page.

const MAX_MEGAPIXELS = 50;
const images = (gallery?.images ?? []).map((text) => new Uint8ClampedArray(bytesOf(text)));
let ownPicture; // {image, title}
let generator = null;

/** Read the user's own picture: the central square, scaled to 32x32. */
async function readOwn(file) {
  const header = new Image(); // its size is known before its pixels are decoded
  header.src = URL.createObjectURL(file);
  await new Promise((done) => (header.onload = header.onerror = done));
  URL.revokeObjectURL(header.src);
  const { naturalWidth: width, naturalHeight: height } = header;
  const isHuge = width * height > MAX_MEGAPIXELS * 1e6;
  // createImageBitmap rejects truncated files, unlike Image.
  const picture = isHuge ? null : await createImageBitmap(file).catch(() => null);
  const problem = isHuge ? `larger than ${MAX_MEGAPIXELS} megapixels (${width} x ${height})`
    : "this browser cannot decode it as a picture";
  find("#choose .error").textContent = picture ? "" : `${file.name}: ${problem}`;
  if (picture) {
    const canvas = element("canvas", { width: 32, height: 32 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white"; // behind transparent pixels
    context.fillRect(0, 0, 32, 32);
    context.imageSmoothingQuality = "high";
    const side = Math.min(width, height);
    const corner = [(width - side) / 2, (height - side) / 2];
    context.drawImage(picture, ...corner, side, side, 0, 0, 32, 32);
    const image = context.getImageData(0, 0, 32, 32).data.filter((_, i) => i % 4 < 3);
    ownPicture = { image, title: file.name };
  }
  changed();
}

/** The chosen image: {image, title, label if known}; undefined until there is one. */
function chosenImage() {
  const { source, image: i } = valuesOf("choose");
  if (source === "own") return ownPicture;
  if (source === "sample") return { image: sampleOf(valuesOf("sample")), title: "sample" };
  const label = gallery.labels[i];
  return { image: images[i], label, title: `${gallery.title}: ${classes[label]}` };
}

/** Change to WebGL, if it computes what WASM does; else stay. */
async function useGpu(pause) {
  await pause("comparing WebGL and WASM …");
  const { net } = networks[0];
  const four = [0, 60, 120, 180].map((level) => randomNoise(Array(PIXELS).fill(level), 60, false));
  const values = () => {
    const gradient = lossGradient(net, four[1], 0, false);
    const scale = Math.max(...gradient.map(Math.abs));
    return [...predict(net, four).flatMap(({ probabilities }) => probabilities),
      ...gradient.map((value) => value / scale)];
  };
  const expected = values();
  const isClose = (value, i) => Math.abs(value - expected[i]) < 1e-3;
  const works = (await tf.setBackend("webgl").catch(() => false)) && values().every(isClose);
  if (!works) await tf.setBackend("wasm");
  const textContent = works ? "uses the GPU" : "WebGL is not accurate on this machine";
  Object.assign(find("#gpu"), { textContent, disabled: true });
}

async function start() {
  await tf.setBackend("wasm");
  for (const network of networks) network.net = new Discriminator(readWeights(network.weights));
  if (data.generator) generator = new Generator(readWeights(data.generator));
  for (const [i, image] of images.entries()) {
    const node = figure(image, "", { title: `${classes[gallery.labels[i]]}, ${i}` });
    node.onclick = () => openTab(activeTab(), { image: i }, "choose");
    find(".strip").append(node);
  }
  find("#gpu").hidden = false;
  for (const tab of findAll("nav button")) tab.onclick = () => openTab(tab.value);
  document.onsubmit = (event) => event.preventDefault();
  document.oninput = ({ target }) => (target.files?.length ? readOwn(target.files[0]) : changed());
  window.onhashchange = restoreState;
  performance.mark("ready");
  await restoreState();
}

start().catch((error) => {
  report(`This page needs a current browser with WebAssembly SIMD: ${error.message}`);
  console.error(error);
});
