"use strict";

let kept = null; // the Ablation of the last network and layer
const BATCH = 10;

/** The numbers below `width` that a text such as "3, 17-20" names. Throws an Error. */
function parseFeatures(text, width) {
  const numbers = text.split(/[\s,;]+/).filter(Boolean).flatMap((word) => {
    const [, first, last = first] = word.match(/^(\d{1,6})(?:-(\d{1,6}))?$/) ?? [];
    if (!(+first <= +last && +last < width)) {
      throw new Error(`${word} is not a number or a range from 0 to ${width - 1}`);
    }
    return Array.from({ length: last - first + 1 }, (_, i) => +first + i);
  });
  return [...new Set(numbers)].sort((a, b) => a - b);
}

async function ablation({ network: name, layer, features: text, favored }, result, pause) {
  const isGenerator = name === "generator";
  const network = networks[name];
  find("#ablation [name=layer]").max = isGenerator ? 7 : 8;
  find(".favored").hidden = isGenerator;
  if (favored !== "" && network) {
    setValues("#ablation form", {
      favored: "", features: network.layers[layer - 1].favored[favored].join(", "),
    });
    return;
  }
  const { width } = isGenerator ? generator : network.net;
  const features = parseFeatures(text, width);
  const without = features.length ? `without ${features.length} of ${width} features` : "";
  if (isGenerator) {
    const label = (i) => i % classes.length;
    result.replaceChildren(heading(`Samples, ${without || "all features"}`));
    for (const [block, removed] of features.length ? [[0, []], [layer, features]] : [[0, []]]) {
      const grid = result.appendChild(row("small"));
      for (let i = 0; i < 16; i++) {
        await pause();
        const latent = latentOf(generator, { seed: 0, label: label(i), number: i });
        grid.append(figure(generate(generator, [latent], block, removed)[0], classes[label(i)]));
      }
    }
    return;
  }
  const batches = Array.from({ length: Math.ceil(images.length / BATCH) }, (_, i) => i * BATCH);
  if (kept?.net !== network.net || kept.layer !== layer) {
    kept?.dispose();
    kept = new Ablation(network.net, layer);
  }
  for (const start of batches.slice(kept.batches.length)) {
    await pause(`activations: ${start} of ${images.length} images`);
    kept.add(images.slice(start, start + BATCH));
  }
  const predicted = [];
  for (const batch of features.length ? kept.batches : []) {
    await pause(`predictions: ${predicted.length} of ${images.length} images`);
    predicted.push(...kept.predict(batch, features));
  }
  const share = (found, label) => mean(gallery.labels.flatMap((own, i) =>
    (label === null || own === label ? [+(found[i] === own)] : [])));
  const accuracies = (label) => [features.length ? share(network.predicted, label) : null,
    share(features.length ? predicted : network.predicted, label)];
  const present = classes.map((_, k) => k).filter((k) => gallery.labels.includes(k));
  result.replaceChildren(
    heading(`${network.name}: accuracy on ${images.length} images ${without}`, network.name),
    element("div", { className: network.name }, bars([
      ["all classes", ...accuracies(null), true],
      ...present.map((k) => [classes[k], ...accuracies(k), false])])));
}
