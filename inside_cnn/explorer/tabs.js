// The tabs: functions of the values of the form, `pause` of `compute` and the chosen image.

async function attack({ network, method, target, epsilon }, pause, { image, label, title }) {
  const { net } = networks[network];
  const before = predictAll(image);
  const targeted = target !== "";
  const goal = targeted ? target : label ?? largest(before[network].probabilities);
  let levels = image;
  if (method === "noise") levels = randomNoise(image, epsilon, true);
  if (method === "step") {
    const gradient = lossGradient(net, image, goal, false);
    levels = signedStep(image, image, gradient, targeted ? -epsilon : epsilon, epsilon);
  }
  if (method === "pgd") {
    let step = 0;
    for (levels of projectedGradient(net, image, goal, { epsilon, targeted })) {
      await pause(`step ${step++} of 20`);
    }
  }
  const attacked = Uint8ClampedArray.from(levels);
  const changes = Array.from(attacked, (value, i) => value - image[i]);
  const contrast = 127 / Math.max(1, ...changes.map(Math.abs));
  const enlarged = Uint8ClampedArray.from(changes, (change) => 127.5 + contrast * change);
  result.replaceChildren(
    row("large", figure(image, title), figure(enlarged, "change, at full contrast"),
      figure(attacked, `attacked, epsilon ${epsilon}/255`)),
    predictions([before, predictAll(attacked)], targeted ? goal : label));
}

/** The image of the values of the tab Sample. */
function sampleOf({ seed, label, number, label2, number2, position, ...others }) {
  const shares = classes.map((_, k) => others[`share${k}`]);
  const start = latentOf(generator, { seed, label, number, shares });
  const end = latentOf(generator, { seed, label: label2, number: number2 });
  return generate(generator, [interpolate(start, end, position / 100)])[0];
}

async function sample(values, pause) {
  const image = sampleOf(values);
  const use = findAll("nav .of_image").map(({ value: tab }) =>
    button(`→ ${tab}`, () => openTab(tab, { source: "sample" }, "choose")));
  const grid = row("grid");
  result.replaceChildren(row("large", figure(image), element("p", {}, ...use)),
    predictions([predictAll(image)]), heading("Grid"), grid);
  for (let i = 0; i < 16; i++) {
    await pause(`image ${i} of 16`);
    const change = values.grid === "walk"
      ? { position: Math.round((100 * i) / 15) } : { number: Math.min(values.number, 84) + i };
    const picture = sampleOf({ ...values, ...change });
    const captions = predictAll(picture).map((predicted, k) => {
      const { name, critic } = networks[k];
      const score = critic ? `, score ${predicted.score.toFixed(1)}` : "";
      return element("div", { className: name }, named(predicted) + score);
    });
    const title = Object.entries(change)[0].join(" ");
    const select = () => openTab("sample", change);
    grid.append(figure(picture, element("div", {}, ...captions), { title, select }));
  }
}

const ROBUST = { // as in visualization.py
  class: { smoothness: 10, settle: 0, views: { translation: 5, center: [0, 0] } },
  feature: { smoothness: 5, settle: 0.25 },
};
let ascent = null; // {steps, node, part, frame}, which can be continued

/** Maximize a class (layer 0) or a feature. Returns the steps and the visible part of the image. */
function ascentOf({ net, layers }, layer, index, method) {
  if (method === "pixels") {
    const start = Float32Array.from({ length: PIXELS }, (_, i) =>
      (gallery ? sum(images.map((image) => image[i])) / images.length : 127.5)); // the mean image
    return { steps: pixelAscent(net, { layer, index }, start) };
  }
  if (layer === 0) return { steps: robustAscent(net, { layer, index }, ROBUST.class) };
  const { size, stride, side } = data.layers[layer - 1];
  const place = layers?.[layer - 1].peak[index] ?? [side >> 1, side >> 1];
  const frame = boxOf(layer, ...place);
  const middles = [frame[0] + frame[2], frame[1] + frame[3]]; // times 2
  const views = { translation: Math.min(5, stride), center: middles.map((x) => x / 32 - 1) };
  const extent = Math.min(32, size + 4);
  const corner = middles.map((x) => clip((x - extent) >> 1, 0, 32 - extent));
  const steps = robustAscent(net, { layer, index, place }, { ...ROBUST.feature, views });
  return { steps, part: [...corner, extent], frame };
}

/** Show a class (layer 0) or a feature: `figures`, its maximization, the strongest images of the
 * gallery, and the most correlated feature of the other network. */
async function showFeature({ network, layer, index, method }, pause, ...figures) {
  const title = layer ? `layer ${layer}, feature ${index}` : classes[index];
  const node = element("div");
  const details = element("div", {}, heading(`${network.name}: ${title}`, network.name),
    row("large", ...figures, node));
  const statistics = network.layers?.[layer - 1]; // of features, not of classes
  if (statistics) {
    const strongest = statistics.top[index].map(([i, y, x]) =>
      figure(images[i], classes[gallery.labels[i]], { frame: boxOf(layer, y, x) }));
    details.append(heading("Images of the gallery with the largest activations"),
      row("small", ...strongest));
  }
  if (statistics && networks.length > 1) {
    const [feature, correlation] = statistics.match[index];
    const other = 1 - networks.indexOf(network);
    details.append(element("p", {}, `Most correlated feature of the ${networks[other].name}: `,
      button(`feature ${feature}`, () => openTab("maximize", { network: other, layer, feature })),
      ` (correlation ${correlation.toFixed(2)})`));
  }
  result.append(details);
  ascent?.steps.return();
  const unit = layer ? "activation" : "logit";
  ascent = { ...ascentOf(network, layer, index, method), node, unit };
  await continueAscent(pause);
}

async function continueAscent(pause) {
  const { steps, node, unit, ...options } = ascent;
  find("#continue").hidden = true;
  for (let found; !(found = steps.next()).done;) { // for...of would end a stopped ascent
    const { image, value, step, last } = found.value;
    node.replaceChildren(figure(image, `${unit} ${value.toFixed(2)}`, options));
    await pause(`step ${step} of ${last}`);
  }
  ascent = null;
}

async function maximize({ network: name, layer, label, feature, method }, pause) {
  const network = networks[name];
  const last = network.net.width - 1;
  find("#maximize [name=feature]").max = last;
  const index = layer ? clip(Math.round(feature), 0, last) : label;
  result.replaceChildren();
  await showFeature({ network, layer, index, method }, pause);
}

/** The features of a layer, those first whose largest activation in the image is most unusual, in
 * standard deviations above their mean over the gallery (without a gallery, the largest). */
function rankedFeatures(name, image, layer) {
  const { net, layers } = networks[name];
  const { side } = data.layers[layer - 1];
  const { mean, std } = layers?.[layer - 1] ?? {};
  const features = featureMaps(net, image, layer).map((map, feature) => {
    const place = largest(map);
    const [unit, value] = [[Math.floor(place / side), place % side], map[place]];
    const deviation = () => (std[feature] > 1e-6 ? (value - mean[feature]) / std[feature] : 0);
    return { name, layer, feature, map, side, unit, value, order: std ? deviation() : value };
  });
  return features.sort((a, b) => b.order - a.order);
}

/** The image, dark where the feature is not active. */
function highlighted(image, { map, side, value }) {
  return image.map((level, i) => {
    const [row, column] = [Math.floor(i / 96), Math.floor(i / 3) % 32].map((p) => (p * side) >> 5);
    const share = Math.max(0, map[row * side + column]) / Math.max(value, 1e-12);
    return level * (0.3 + 0.7 * share);
  });
}

const strengthOf = ({ order }) => // in units of rankedFeatures
  (gallery ? `${order.toFixed(1)} std above mean` : `activation ${order.toFixed(1)}`);

/** Heading and figures of features; a click opens the details in the tab Activations. */
function featureFigures(size, image, features) {
  const [{ name, layer }] = features;
  const figures = features.map((found) => figure(highlighted(image, found), `${found.feature}`, {
    title: `layer ${layer}, feature ${found.feature}: ${strengthOf(found)}`,
    select: () => openTab("activations", { layer, feature: `${name}:${found.feature}` }),
  }));
  const title = networks[name].name;
  return element("div", {}, heading(`${title}, layer ${layer}`, title), row(size, ...figures));
}

async function activations({ layer, feature }, pause, { image, title }) {
  result.replaceChildren();
  let chosen;
  for (const name of networks.keys()) {
    await pause();
    const features = rankedFeatures(name, image, layer);
    result.append(featureFigures("small", image, features.slice(0, 12)));
    chosen ??= features.find((found) => `${name}:${found.feature}` === feature);
  }
  if (!chosen) return;
  const [network, method, index] = [networks[chosen.name], "fourier", chosen.feature];
  const end = showFeature({ network, layer, index, method }, pause,
    figure(image, `${title}: ${strengthOf(chosen)}`, { frame: boxOf(layer, ...chosen.unit) }),
    figure(highlighted(image, chosen), "where it is active"));
  result.lastElementChild.scrollIntoView({ block: "nearest" });
  await end;
}

async function compare(_, pause, { image, title, label }) {
  const predicted = predictions([predictAll(image)], label);
  result.replaceChildren(row("large", figure(image, title)), predicted);
  for (let layer = 1; layer <= LAYERS; layer++) {
    const columns = [];
    for (const name of networks.keys()) {
      await pause(`layer ${layer} of ${LAYERS}`);
      columns.push(featureFigures("four", image, rankedFeatures(name, image, layer).slice(0, 4)));
    }
    result.append(element("div", { className: "pair" }, ...columns));
  }
}

let kept = {}; // {net, layer, batches}: the activations of the gallery, ten images each

/** The numbers below `width` that a text such as "3, 17-20" names. Throws an Error. */
function parseFeatures(text, width) {
  const numbers = text.split(/[\s,;]+/).filter(Boolean).flatMap((word) => {
    const [, first, last = first] = word.match(/^(\d{1,6})(?:-(\d{1,6}))?$/) ?? [];
    if (!(+first <= +last && +last < width)) {
      throw new Error(`${word} is not a number or a range from 0 to ${width - 1}`);
    }
    return Array.from({ length: last - first + 1 }, (_, i) => +first + i);
  });
  return [...new Set(numbers)];
}

async function ablation({ network: name, layer, features: text, favored }, pause) {
  const network = networks[name]; // undefined for the generator, the last of the list
  find(".favored").hidden = !network;
  if (!network && layer > 7) return openTab("ablation", { layer: 7 }); // its last block
  if (network && favored !== "") {
    const features = network.layers[layer - 1].favored[favored].join(", ");
    return openTab("ablation", { favored: "", features });
  }
  const { width } = network?.net ?? generator;
  const features = parseFeatures(String(text), width);
  const without = features.length ? `without ${features.length} of ${width} features` : "";
  if (network) return ablateNetwork(network, layer, features, without, pause);
  result.replaceChildren(heading(`Samples, ${without || "all features"}`));
  for (const removed of features.length ? [[], features] : [[]]) {
    const samples = result.appendChild(row("small"));
    for (let number = 0; number < 16; number++) {
      await pause();
      const label = number % classes.length;
      const latent = latentOf(generator, { seed: 0, label, number });
      samples.append(figure(generate(generator, [latent], layer, removed)[0], classes[label]));
    }
  }
}

/** Show the accuracy of a discriminator with all features of a layer, and without some. */
async function ablateNetwork({ name, net, predicted }, layer, features, without, pause) {
  if (kept.net !== net || kept.layer !== layer) {
    tf.dispose(kept.batches);
    kept = { net, layer, batches: [] };
  }
  const { batches } = kept;
  for (let start = 10 * batches.length; start < images.length; start += 10) {
    await pause(`activations: ${start} of ${images.length} images`);
    batches.push(keptActivations(net, layer, images.slice(start, start + 10)));
  }
  const ablated = [];
  for (const batch of features.length ? batches : []) {
    await pause(`predictions: ${ablated.length} of ${images.length} images`);
    ablated.push(...predictWithout(net, layer, features, batch));
  }
  const { labels } = gallery;
  const versions = features.length ? [predicted, ablated] : [predicted];
  const accuracies = (rows) => versions.map((version) =>
    sum(rows.map((i) => +(version[i] === labels[i]))) / rows.length);
  const rowsOf = classes.map((_, k) => [...labels.keys()].filter((i) => labels[i] === k));
  result.replaceChildren(
    heading(`${name}: accuracy on ${images.length} images ${without}`, name),
    element("div", { className: name }, bars([
      ["all classes", accuracies([...labels.keys()]), true],
      ...rowsOf.flatMap((rows, k) => (rows.length ? [[classes[k], accuracies(rows)]] : []))])));
}

const TABS = { attack, sample, maximize, activations, compare, ablation };
