"use strict";

/** The `count` features of a layer whose largest activation in an image is most unusual, in
 * standard deviations above their mean over the gallery (without a gallery, the largest). */
function strongestFeatures(network, image, layer, count) {
  const { values, side, width } = featureMaps(network.net, image, layer);
  const statistics = network.layers?.[layer - 1];
  const features = Array.from({ length: width }, (_, feature) => {
    const map = Float32Array.from({ length: side * side }, (_, i) => values[i * width + feature]);
    const value = Math.max(...map);
    const place = map.indexOf(value);
    const std = statistics?.std[feature];
    const unusual = statistics && (std > 1e-6 ? (value - statistics.mean[feature]) / std : 0);
    return { feature, map, side, value, unusual, row: Math.floor(place / side), column: place % side };
  });
  return features.sort((a, b) => (b.unusual ?? b.value) - (a.unusual ?? a.value)).slice(0, count);
}

/** The image, dark where the feature is not active. */
function highlighted(image, { map, side, value }) {
  return image.map((level, i) => {
    const [row, column] = [Math.floor(i / 96), Math.floor(i / 3) % 32].map((p) => (p * side) >> 5);
    const share = Math.max(0, map[row * side + column]) / Math.max(value, 1e-12);
    return level * (0.3 + 0.7 * share);
  });
}

const strength = ({ unusual, value }) =>
  unusual === undefined ? `activation ${value.toFixed(1)}` : `${unusual.toFixed(1)} std above mean`;

/** Figures of features; a click selects the feature in the tab Activations. */
function featureFigures(name, image, layer, features) {
  return features.map((found) => figure(highlighted(image, found), `${found.feature}`, {
    title: `layer ${layer}, feature ${found.feature}: ${strength(found)}`,
    select: () => {
      setValues("#activations form", { layer, feature: `${name}:${found.feature}` }, false);
      openTab("activations");
    },
  }));
}

async function activations({ layer, feature }, result, pause) {
  const { image, title } = chosenImage();
  const details = element("div");
  result.replaceChildren();
  for (const [name, network] of networks.entries()) {
    await pause();
    const features = strongestFeatures(network, image, layer, 12);
    result.append(heading(`${network.name}, layer ${layer}`, network.name),
      row("small", ...featureFigures(name, image, layer, features)));
  }
  result.append(details);
  const [name, index] = feature.split(":").map(Number);
  const network = networks[name];
  if (feature === "" || !(index < network?.net.width)) return;
  const all = strongestFeatures(network, image, layer, network.net.width);
  const found = all.find((each) => each.feature === index);
  const optimized = element("div");
  details.append(heading(`${network.name}: layer ${layer}, feature ${index}`, network.name),
    row("large", figure(image, `${title}: ${strength(found)}`, {
      frame: boxOf(layer, found.row, found.column),
    }), figure(highlighted(image, found), "where it is active"), optimized),
    ...featureDetails(network, layer, index));
  details.scrollIntoView({ block: "nearest" });
  await showAscent(ascentOf(network, layer, index, "fourier"), optimized, pause);
}

async function compare(_, result, pause) {
  const { image, title, label } = chosenImage();
  await pause();
  result.replaceChildren(row("large", figure(image, title)),
    predictions(networks.map(({ net }) => predict(net, [image])[0]), null, label));
  for (let layer = 1; layer <= LAYERS; layer++) {
    const columns = [];
    for (const [name, network] of networks.entries()) {
      await pause(`layer ${layer} of ${LAYERS}`);
      const features = strongestFeatures(network, image, layer, 4);
      columns.push(element("div", {}, heading(`${network.name}, layer ${layer}`, network.name),
        row("four", ...featureFigures(name, image, layer, features))));
    }
    result.append(element("div", { className: "pair" }, ...columns));
  }
}
