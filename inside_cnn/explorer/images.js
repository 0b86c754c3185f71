// The image that Attack, Activations and Compare use: of the gallery, a sample, or the user's own.
"use strict";

const MAX_MEGAPIXELS = 50;
const images = []; // of the gallery
let ownPicture = null; // {image, title}

/** A decoded picture as images of 32x32 pixels, in rows. */
function pixelsOf(source, width, height, drawing = [0, 0, width, height]) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, ...drawing, 0, 0, width, height);
  const result = [];
  for (let top = 0; top < height; top += 32) {
    for (let left = 0; left < width; left += 32) {
      const { data: rgba } = context.getImageData(left, top, 32, 32);
      result.push(Uint8ClampedArray.from(rgba.filter((_, i) => i % 4 < 3)));
    }
  }
  return result;
}

/** Decode a picture file. Throws an Error whose message is for the user. */
async function decode(blob, name) {
  const header = new Image(); // its size is known before its pixels are decoded
  header.src = URL.createObjectURL(blob);
  await new Promise((done) => (header.onload = header.onerror = done));
  URL.revokeObjectURL(header.src);
  const { naturalWidth: width, naturalHeight: height } = header;
  if (width * height > MAX_MEGAPIXELS * 1e6) {
    throw new Error(`${name}: larger than ${MAX_MEGAPIXELS} megapixels (${width} x ${height})`);
  }
  return createImageBitmap(blob).catch(() => { // rejects truncated files, unlike Image
    throw new Error(`${name}: this browser cannot decode it as a picture`);
  });
}

async function loadGallery() {
  if (!gallery) return;
  const picture = await decode(new Blob([bytesOf(gallery.png)]), "gallery");
  images.push(...pixelsOf(picture, picture.width, picture.height).slice(0, gallery.labels.length));
  find("#choose [name=image]").max = images.length - 1;
  find(".strip").append(...images.map((image, i) => figure(image, "", {
    title: `${classes[gallery.labels[i]]}, ${i}`,
  })));
  findAll(".strip figure").forEach((node, i) => node.addEventListener("click", () => {
    find("#choose [name=image]").value = i;
    changed();
  }));
}

/** Read the user's own picture: the central square, scaled to 32x32. */
async function readOwn(file) {
  const error = find("#choose .error");
  error.textContent = "";
  try {
    const picture = await decode(file, file.name);
    const { width, height } = picture;
    const side = Math.min(width, height);
    const square = [(width - side) / 2, (height - side) / 2, side, side];
    const [image] = pixelsOf(picture, 32, 32, square);
    ownPicture = { image, title: file.name };
  } catch (reason) {
    error.textContent = reason.message;
  }
  changed();
}

/** The chosen image: {image, label or null, title}; null until there is one. */
function chosenImage() {
  const { source, image: index } = valuesOf(find("#choose"));
  if (source === "own") return ownPicture && { ...ownPicture, label: null };
  if (source === "sample") {
    const sample = sampleOf(valuesOf(find("#sample form")));
    return { image: generate(generator, [sample.latent])[0], label: null, title: "sample" };
  }
  const label = gallery.labels[index];
  return { image: images[index], label, title: `${gallery.title}: ${classes[label]}` };
}

/** Show what belongs to the source of the image. */
function showChooser() {
  const { source, image } = valuesOf(find("#choose"));
  findAll("#choose .gallery").forEach((node) => (node.hidden = source !== "gallery"));
  find("#choose .own").hidden = source !== "own";
  findAll(".strip figure").forEach((node, i) => {
    if (i === image) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  });
}
