"use strict";

const TABS = { attack, sample, maximize, activations, compare, ablation };
const NEEDS_IMAGE = ["attack", "activations", "compare"];
let generator = null;

/** Set the values of a form; with `show`, compute the tab again. */
function setValues(form, values, show = true) {
  for (const [name, value] of Object.entries(values)) find(`[name=${name}]`, find(form)).value = value;
  if (show) changed();
}

/** Compute the active tab again, from the values of its form. */
function changed() {
  saveState();
  showNumbers();
  showChooser();
  const section = document.getElementById(activeTab());
  const result = find(".result", section);
  if (NEEDS_IMAGE.includes(section.id) && !chosenImage()) {
    result.replaceChildren(element("p", {}, "Open a picture."));
    return stop();
  }
  return compute((pause) => TABS[section.id](valuesOf(find("form", section)), result, pause));
}

function openTab(name) {
  for (const button of findAll("nav button")) {
    if (button.value === name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
    document.getElementById(button.value).hidden = button.value !== name;
  }
  find("#choose").hidden = !NEEDS_IMAGE.includes(name);
  return changed();
}

/** Fill the lists, and remove what this page has no network or images for. */
function build() {
  const option = (value, text) => element("option", { value }, text);
  const lists = {
    ".classes": classes.map((name, k) => option(k, name)),
    ".networks": networks.map(({ name }, i) => option(i, name)),
    ".generators": generator ? [option("generator", "generator")] : [],
    "#maximize [name=layer]": data.layers.map(({ side }, i) =>
      option(i + 1, `a feature of layer ${i + 1} (${side}×${side})`)),
  };
  for (const [selector, options] of Object.entries(lists)) {
    for (const list of findAll(selector)) list.append(...options.map((o) => o.cloneNode(true)));
  }
  find("#mixture").append(...classes.map((name, k) => element("label", {}, `${name} `,
    element("b"),
    element("input", { type: "range", name: `share${k}`, max: 100, step: 5, value: 0 }))));
  find("#sample [name=label2]").value = Math.min(1, classes.length - 1);
  if (!generator) remove("sample", "#choose [value=sample]");
  if (!gallery) {
    remove(generator ? "" : "ablation", "#choose [value=gallery], #ablation .networks option:not([value=generator])");
  }
  const parts = networks.map(({ name, predicted }) => {
    const right = predicted?.filter((k, i) => k === gallery.labels[i]).length;
    const accuracy = predicted ? ` (${right} of ${predicted.length} gallery images correct)` : "";
    return element("b", { className: name }, `${name}${accuracy}`);
  });
  find("#about").append("Networks of the same eight layers, trained on the same images: ",
    ...parts.flatMap((part, i) => (i ? [", ", part] : [part])),
    ". Everything is computed in this page; nothing is sent anywhere.");
}

function remove(tab, options) {
  findAll(options).forEach((node) => node.remove());
  if (!tab) return;
  find(`nav [value=${tab}]`).remove();
  delete TABS[tab];
}

/** Change to WebGL, if it computes what WASM does; else stay. */
async function useGpu(pause) {
  const { net } = networks[0];
  const four = [0, 1, 2, 3].map((i) => randomNoise(new Uint8ClampedArray(PIXELS).fill(60 * i), 60, false));
  const values = () => [...predict(net, four).flatMap(({ probabilities }) => probabilities),
    ...lossGradient(net, four[1], 0, false)];
  await pause("comparing WebGL and WASM …");
  const expected = values();
  const failure = await startBackend("webgl").then(() => {
    const scale = Math.max(...expected.slice(-PIXELS).map(Math.abs));
    const isPixel = (i) => i >= expected.length - PIXELS;
    const close = values().every((value, i) =>
      Math.abs(value - expected[i]) < 1e-3 * (isPixel(i) ? scale : 1));
    return close ? null : "WebGL is not accurate enough on this machine";
  }).catch((error) => error.message);
  if (failure) await startBackend("wasm");
  find("#gpu").textContent = failure ?? "uses the GPU";
  find("#gpu").disabled = true;
}

async function start() {
  await startBackend("wasm", bytesOf(data.wasm));
  for (const network of networks) {
    network.net = new Discriminator(readWeights(bytesOf(network.weights).buffer));
  }
  if (data.generator) generator = new Generator(readWeights(bytesOf(data.generator).buffer));
  await loadGallery();
  build();
  find("#gpu").hidden = false;
  find("#stop").onclick = stop;
  find("#gpu").onclick = () => compute(useGpu).then(changed);
  find("#choose [type=file]").onchange = (event) => readOwn(event.target.files[0]);
  find("#continue").onclick = () => compute((pause) => showAscent(ascent, ascent.node, pause));
  for (const button of findAll("nav button")) button.onclick = () => openTab(button.value);
  for (const form of findAll("form")) {
    form.onsubmit = (event) => event.preventDefault();
    form.oninput = (event) => event.target.type !== "file" && changed();
  }
  window.onhashchange = () => openTab(restoreState());
  performance.mark("ready");
  await openTab(restoreState());
}

start().catch((error) => {
  report(`This page needs a current browser with WebAssembly SIMD: ${error.message}`);
  console.error(error);
});
