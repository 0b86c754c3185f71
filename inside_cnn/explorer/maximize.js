"use strict";

const ROBUST = { // as in visualization.py
  class: { smoothness: 10, settle: 0, views: { translation: 5 } },
  feature: { smoothness: 5, settle: 0.25 },
};
let ascent = null; // a generator of steps, which can be continued

/** The steps that maximize a class (layer 0) or a feature, and the visible part of the image. */
function ascentOf(network, layer, index, method) {
  if (method === "pixels") {
    const start = Float32Array.from({ length: PIXELS }, (_, i) =>
      images.length ? mean(images.map((image) => image[i])) : 127.5);
    return { steps: pixelAscent(network.net, { layer, index }, start) };
  }
  if (layer === 0) return { steps: robustAscent(network.net, { layer, index }, ROBUST.class) };
  const { size, stride, side } = data.layers[layer - 1];
  const place = network.layers?.[layer - 1].peak[index] ?? [side >> 1, side >> 1];
  const frame = boxOf(layer, ...place);
  const center = [frame[0] + frame[2], frame[1] + frame[3]].map((sum) => sum / 32 - 1);
  const views = { translation: Math.min(5, stride), center };
  const extent = Math.min(32, size + 4);
  const start = (low, high) => Math.min(Math.max((low + high - extent) >> 1, 0), 32 - extent);
  const part = [start(frame[0], frame[2]), start(frame[1], frame[3]), extent];
  const goal = { layer, index, place };
  return { steps: robustAscent(network.net, goal, { ...ROBUST.feature, views }), part, frame };
}

/** Show every step in `node`, a new ascent or the one that was stopped. */
async function showAscent(next, node, pause) {
  if (next !== ascent) ascent?.steps.return();
  ascent = Object.assign(next, { node });
  find("#continue").hidden = true;
  for (let found; !(found = next.steps.next()).done;) {
    const { image, value, step, steps } = found.value;
    node.replaceChildren(figure(image, `value ${value.toFixed(2)}`, next));
    await pause(`step ${step} of ${steps}`);
  }
  ascent = null;
}

async function maximize({ network: name, layer, label, feature, method }, result, pause) {
  const network = networks[name];
  const index = +layer ? feature : +label;
  find(".of_class").hidden = +layer > 0;
  find(".of_layer").hidden = +layer === 0;
  find("#maximize [name=feature]").max = network.net.width - 1;
  await pause();
  const picture = element("div");
  const title = +layer ? `layer ${layer}, feature ${index}` : classes[index];
  result.replaceChildren(heading(`${network.name}: ${title}`, network.name), row("large", picture),
    ...(+layer ? featureDetails(network, +layer, index) : []));
  await showAscent(ascentOf(network, +layer, index, method), picture, pause);
}

/** The strongest images of the gallery, and the most correlated feature of the other network. */
function featureDetails(network, layer, index) {
  if (!network.layers) return [];
  const { top, match } = network.layers[layer - 1];
  const figures = top[index].map(([i, row, column]) =>
    figure(images[i], classes[gallery.labels[i]], { frame: boxOf(layer, row, column) }));
  const found = [heading(`Images of the gallery with the largest activations`), row("small", ...figures)];
  if (match) {
    const [other, correlation] = match[index];
    const name = 1 - networks.indexOf(network);
    const select = () => visualize(name, layer, other);
    found.push(element("p", {}, `Most correlated feature of the ${networks[name].name}: `,
      element("button", { type: "button", onclick: select }, `feature ${other}`),
      ` (correlation ${correlation.toFixed(2)})`));
  }
  return found;
}

/** Open the feature visualization of a feature. */
function visualize(network, layer, feature) {
  setValues("#maximize form", { network, layer, feature }, false);
  openTab("maximize");
}
