// The page: one computation at a time, its state in the address, and the elements of results.

const data = JSON.parse(document.getElementById("data").textContent);
const { classes, networks, gallery } = data; // each network gets `net`, a Discriminator
const find = (selector) => document.querySelector(selector);
const findAll = (selector) => [...document.querySelectorAll(selector)];
const result = find(".result"); // of the tab
const sum = (values) => values.reduce((total, value) => total + value, 0);
const largest = (values) => values.indexOf(Math.max(...values));
const clip = (value, low, high) => Math.min(Math.max(value, low), high);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

let current = 0; // the number of the latest computation; an older one ends at its next pause

function report(message, isBusy = false) {
  find("#status span").textContent = message;
  find("#stop").hidden = !isBusy;
}

/** Run `work`, which calls `await pause(message)` regularly; the one before it ends. */
async function compute(work) {
  const own = ++current;
  const pause = async (message = "computing …") => {
    report(message, true);
    await new Promise((done) => setTimeout(done));
    if (own !== current) throw new Error("not the latest");
  };
  const run = pause().then(() => work(pause));
  const message = await run.then(() => "ready", (error) => `error: ${error.message}`);
  if (own === current) report(message);
}

function stop() {
  current++;
  report("stopped");
  find("#continue").hidden = !ascent;
}

/** The values of a form, numbers where possible: {name: value}. */
function valuesOf(id) {
  const entries = [...new FormData(document.getElementById(id))];
  return Object.fromEntries(entries.map(([name, text]) =>
    [name, text.trim() === "" || isNaN(text) ? text : +text]));
}

const keyOf = (input) => `${input.form.id}.${input.name}`; // in the address
const activeTab = () => find("nav [aria-current=true]")?.value;

/** Set all forms from the address and open its tab; what does not fit is ignored. */
function restoreState() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const input of findAll("form [name]")) {
    const initial = (input.dataset.initial ??= input.value);
    input.value = state.get(keyOf(input)) ?? initial;
    input.value ||= initial; // a select without such an option is empty
  }
  const tabs = findAll("nav button").map(({ value }) => value);
  return openTab(tabs.includes(state.get("tab")) ? state.get("tab") : tabs[0]);
}

/** Set values of a form and open a tab. */
function openTab(name, values = {}, form = name) {
  for (const [key, value] of Object.entries(values)) find(`#${form} [name=${key}]`).value = value;
  if (name !== activeTab()) result.replaceChildren();
  for (const tab of findAll("nav button")) {
    tab.ariaCurrent = tab.value === name;
    document.getElementById(tab.value).hidden = tab.value !== name;
  }
  return changed();
}

/** Compute the active tab again, from the values of its form; the address gets all values. */
function changed() {
  findAll("label b").forEach((number) => (number.textContent = number.nextElementSibling.value));
  const { image } = valuesOf("choose");
  findAll(".strip figure").forEach((node, i) => (node.ariaCurrent = i === image));
  const tab = activeTab();
  const state = new URLSearchParams({ tab });
  for (const input of findAll("form [name]")) {
    if (input.value !== input.dataset.initial) state.set(keyOf(input), input.value);
  }
  history.replaceState(null, "", `#${state}`);
  const chosen = find(".of_image[aria-current=true]") && chosenImage();
  if (chosen !== undefined) return compute((pause) => TABS[tab](valuesOf(tab), pause, chosen));
  result.replaceChildren(element("p", {}, "Open a picture."));
  return stop();
}

/** An image in a figure. part: [left, top, side] of the image; frame: [left, top, right, bottom];
 * select: called on a click, with `title` as its label. */
function figure(image, caption = "", { part = [0, 0, 32], frame, select, title = "" } = {}) {
  const [left, top, side] = part;
  const canvas = element("canvas", { width: side, height: side });
  const rgba = new ImageData(32, 32);
  for (let i = 0; i < 4096; i++) rgba.data[i] = i % 4 === 3 ? 255 : image[i - (i >> 2)];
  canvas.getContext("2d").putImageData(rgba, -left, -top);
  const properties = { type: "button", onclick: select, title };
  const box = element(select ? "button" : "div", properties, canvas);
  if (frame) {
    const [x, y, right, bottom] = frame;
    const inset = [y - top, left + side - right, top + side - bottom, x - left];
    const style = `inset: ${inset.map((pixels) => `${(100 * pixels) / side}%`).join(" ")}`;
    box.append(element("i", { style }));
  }
  return element("figure", {}, box, element("figcaption", {}, caption));
}

const row = (size, ...children) => element("div", { className: `row ${size}` }, ...children);
const heading = (text, className = "") => element("h2", { className }, text);
const button = (text, onclick) => element("button", { type: "button", onclick }, text);

/** Bars of one or two shares: [[name, [before,] after, isMarked]]. */
function bars(rows) {
  return element("table", {}, ...rows.map(([name, shares, isMarked]) =>
    element("tr", { className: isMarked ? "marked" : "" },
      element("th", { scope: "row" }, name),
      element("td", { className: "bar" },
        ...shares.map((share) => element("i", { style: `width: ${100 * share}%` }))),
      ...shares.map((share) => element("td", {}, `${(100 * share).toFixed(1)} %`)))));
}

const predictAll = (image) => networks.map(({ net }) => predict(net, [image])[0]);

/** A prediction such as "cat 93 %". */
function named({ probabilities }) {
  const k = largest(probabilities);
  return `${classes[k]} ${Math.round(100 * probabilities[k])} %`;
}

/** The probabilities of each network, of one image or before and after a change.
 * versions: of the image, each from predictAll. */
function predictions(versions, label) {
  return element("div", { className: "pair" }, ...networks.map(({ name, critic }, i) => {
    const own = versions.map((version) => version[i]);
    const rows = classes.map((title, k) =>
      [title, own.map(({ probabilities }) => probabilities[k]), k === label]);
    rows.sort(([, a], [, b]) => Math.max(...b) - Math.max(...a));
    const scores = own.map(({ score }) => score.toFixed(1)).join(" → ");
    return element("div", { className: name },
      heading(`${name}: ${own.map(named).join(" → ")}`),
      element("p", {}, critic ? `critic score ${scores}` : ""),
      bars(rows.slice(0, 6)));
  }));
}

/** The pixels that a unit sees: [left, top, right, bottom]. */
function boxOf(layer, row, column) {
  const { size, stride, first } = data.layers[layer - 1];
  const [left, top] = [first + column * stride, first + row * stride];
  return [left, top, left + size, top + size].map((pixel) => clip(pixel, 0, 32));
}
