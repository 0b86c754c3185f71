// The image that Attack, Activations and Compare use, and the start of the page.

const MAX_MEGAPIXELS = 50;
const images = []; // of the gallery
let ownPicture; // {image, title}
let generator = null;

/** The pixels of a square of a picture, scaled to 32x32. */
function pixelsOf(picture, left, top, side) {
  const canvas = element("canvas", { width: 32, height: 32 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, 32, 32);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, left, top, side, side, 0, 0, 32, 32);
  return context.getImageData(0, 0, 32, 32).data.filter((_, i) => i % 4 < 3);
}

async function loadGallery() {
  if (!gallery) return;
  const picture = element("img", { src: `data:image/png;base64,${gallery.png}` });
  await picture.decode();
  for (const [i, label] of gallery.labels.entries()) {
    const [row, column] = [Math.floor(i / gallery.columns), i % gallery.columns];
    images.push(pixelsOf(picture, 32 * column, 32 * row, 32));
    const node = figure(images[i], "", { title: `${classes[label]}, ${i}` });
    node.onclick = () => openTab(activeTab(), { image: i }, "choose");
    find(".strip").append(node);
  }
}

/** Read the user's own picture: the central square. */
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
    const side = Math.min(width, height);
    const image = pixelsOf(picture, (width - side) / 2, (height - side) / 2, side);
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
  const starts = await tf.setBackend("webgl").catch(() => false);
  const works = starts && values().every(isClose);
  if (!works) await tf.setBackend("wasm");
  const textContent = works ? "uses the GPU" : "WebGL is not accurate on this machine";
  Object.assign(find("#gpu"), { textContent, disabled: true });
}

async function start() {
  await tf.setBackend("wasm");
  for (const network of networks) network.net = new Discriminator(readWeights(network.weights));
  if (data.generator) generator = new Generator(readWeights(data.generator));
  await loadGallery();
  find("#gpu").hidden = false;
  find("#stop").onclick = stop;
  find("#gpu").onclick = () => compute(useGpu).then(changed);
  find("[type=file]").onchange = ({ target }) => target.files.length && readOwn(target.files[0]);
  find("#continue").onclick = () => compute((pause) => showAscent(ascent, ascent.node, pause));
  for (const tab of findAll("nav button")) tab.onclick = () => openTab(tab.value);
  document.onsubmit = (event) => event.preventDefault();
  document.oninput = (event) => event.target.type !== "file" && changed();
  window.onhashchange = () => openTab(restoreState());
  performance.mark("ready");
  await openTab(restoreState());
}

start().catch((error) => {
  report(`This page needs a current browser with WebAssembly SIMD: ${error.message}`);
  console.error(error);
});
