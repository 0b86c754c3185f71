"use strict";

/** {latent, at(position)} of the form's values. */
function sampleOf({ seed, label, number, label2, number2, position, ...shares }) {
  const mixture = classes.map((_, k) => shares[`share${k}`]);
  const start = latentOf(generator, { seed, label: +label, number, shares: mixture });
  const end = latentOf(generator, { seed, label: +label2, number: number2 });
  const at = (percent) => (percent ? interpolate(start, end, percent / 100) : start);
  return { latent: at(position), at };
}

async function sample(values, result, pause) {
  await pause();
  const [image] = generate(generator, [sampleOf(values).latent]);
  const use = ["attack", "activations", "compare"].filter((tab) => TABS[tab]).map((tab) =>
    element("button", { type: "button", onclick: () => useSample(tab) }, `→ ${tab}`));
  const grid = row("grid");
  result.replaceChildren(row("large", figure(image, ""), element("p", {}, ...use)),
    predictions(networks.map(({ net }) => predict(net, [image])[0])), heading("Grid"), grid);
  const walk = values.grid === "walk";
  const first = Math.min(values.number, 84);
  const sixteen = Array.from({ length: 16 }, (_, i) => // changes of the form
    (walk ? { position: Math.round((100 * i) / 15) } : { number: first + i }));
  const cells = [];
  for (const change of sixteen) {
    await pause();
    const [picture] = generate(generator, [sampleOf({ ...values, ...change }).latent]);
    const [[name, value]] = Object.entries(change);
    const select = () => setValues("#sample form", change);
    const title = walk ? `${value} %` : `number ${value}`;
    cells.push({ picture, node: figure(picture, title, { select, title: `${name} ${value}` }) });
    grid.append(cells.at(-1).node);
  }
  for (const { picture, node } of cells) {
    await pause("predicting the classes …");
    const captions = networks.map((network) => {
      const [predicted] = predict(network.net, [picture]);
      const score = network.critic ? `, score ${predicted.score.toFixed(1)}` : "";
      return element("div", { className: network.name }, named(predicted) + score);
    });
    find("figcaption", node).replaceChildren(...captions);
  }
}

/** Open a tab with the current sample as its image. */
function useSample(tab) {
  find("#choose [name=source]").value = "sample";
  openTab(tab);
}
