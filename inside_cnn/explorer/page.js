// The page: its state in the address, one computation at a time, and the elements of results.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { classes, networks, gallery } = data; // each network gets `net`, a Discriminator
const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// ---------------------------------------------------------------------------- computations

class Stopped extends Error {}
let current = 0; // the number of the latest computation; an older one ends at its next pause

function report(message) {
  find("#status span").textContent = message;
}

/** Run `work`, which calls `await pause(message)` regularly; the one before it ends. */
async function compute(work) {
  const own = ++current;
  const pause = async (message = "computing …") => {
    report(message);
    await new Promise((done) => setTimeout(done));
    if (own !== current) throw new Stopped();
  };
  find("#stop").hidden = false;
  try {
    await work(pause);
    if (own === current) report("ready");
  } catch (error) {
    if (error instanceof Stopped) return;
    report(`error: ${error.message}`);
  }
  find("#stop").hidden = own === current;
}

function stop() {
  current++;
  report("stopped");
  find("#stop").hidden = true;
  find("#continue").hidden = !ascent;
}

// ---------------------------------------------------------------------------- state

/** The values of a form: {name: text}, whole numbers of sliders and number fields. */
function valuesOf(form) {
  const named = findAll("[name]", form);
  return Object.fromEntries(named.map((input) => {
    const isNumber = ["range", "number"].includes(input.type);
    return [input.name, isNumber ? Math.round(clamp(input)) : input.value];
  }));
}

/** The number in a field, within its limits. */
function clamp({ value, min, max }) {
  const low = min === "" ? -Infinity : +min;
  return Math.min(Math.max(Number(value) || 0, low), max === "" ? Infinity : +max);
}

function activeTab() {
  return find("nav [aria-current]").value;
}

/** Write the tab and the values of all forms into the address. */
function saveState() {
  const state = new URLSearchParams({ tab: activeTab() });
  for (const form of findAll("form")) {
    const name = form.id || form.parentNode.id;
    for (const input of findAll("[name]", form)) {
      if (input.value !== input.dataset.default) state.set(`${name}.${input.name}`, input.value);
    }
  }
  history.replaceState(null, "", `#${state}`);
}

/** Set all forms from the address; what does not fit is ignored. Returns the tab. */
function restoreState() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const form of findAll("form")) {
    const name = form.id || form.parentNode.id;
    for (const input of findAll("[name]", form)) {
      input.dataset.default ??= input.value;
      const value = state.get(`${name}.${input.name}`) ?? input.dataset.default;
      const fits = input.tagName !== "SELECT" || [...input.options].some((o) => o.value === value);
      input.value = fits ? value : input.dataset.default;
    }
  }
  showNumbers();
  return TABS[state.get("tab")] ? state.get("tab") : Object.keys(TABS)[0];
}

/** The number beside every slider. */
function showNumbers() {
  for (const slider of findAll("[type=range]")) {
    find("b", slider.parentNode).textContent = slider.value;
  }
}

// ---------------------------------------------------------------------------- pictures, tables

/** An image in a figure. part: [left, top, side] of the image; frame: [left, top, right, bottom];
 * select: called on a click, with `title` as its label. */
function figure(image, caption = "", { part = [0, 0, 32], frame, select, title = "" } = {}) {
  const [left, top, side] = part;
  const canvas = element("canvas", { width: side, height: side, title });
  const rgba = new ImageData(32, 32);
  for (let i = 0; i < 4096; i++) rgba.data[i] = i % 4 === 3 ? 255 : image[i - (i >> 2)];
  canvas.getContext("2d").putImageData(rgba, -left, -top);
  const box = element("div", {}, canvas);
  if (frame) {
    const percent = (value, start) => `${(100 * (value - start)) / side}%`;
    const mark = box.appendChild(element("i"));
    Object.assign(mark.style, {
      left: percent(frame[0], left), top: percent(frame[1], top),
      width: percent(frame[2], frame[0]), height: percent(frame[3], frame[1]),
    });
  }
  const content = select
    ? element("button", { type: "button", onclick: select, ariaLabel: title }, box) : box;
  return element("figure", {}, content, element("figcaption", {}, caption));
}

const row = (size, ...children) => element("div", { className: `row ${size}` }, ...children);
const heading = (text, className = "") => element("h2", { className }, text);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const largest = (values) => values.indexOf(Math.max(...values));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** "cat 93 %" */
function named({ probabilities }) {
  const k = largest(probabilities);
  return `${classes[k]} ${Math.round(100 * probabilities[k])} %`;
}

/** A bar for each entry, of one or two values: [[name, before or null, after, isMarked]]. */
function bars(rows) {
  const bar = (share, className) => {
    const line = element("i", { className });
    line.style.width = `${100 * share}%`;
    return line;
  };
  return element("table", {}, ...rows.map(([name, before, after, isMarked]) => {
    const both = before === null ? [] : [bar(before, "before")];
    return element("tr", { className: isMarked ? "marked" : "" },
      element("th", { scope: "row" }, name),
      element("td", { className: "bar" }, ...both, bar(after, "")),
      ...(before === null ? [] : [element("td", {}, percent(before))]),
      element("td", {}, percent(after)));
  }));
}

/** The probabilities of each network, of one image or before and after a change. */
function predictions(before, after, label) {
  return element("div", { className: "pair" }, ...networks.map((network, i) => {
    const [old, now] = [after && before[i], (after ?? before)[i]];
    const order = now.probabilities.map((p, k) => [Math.max(p, old?.probabilities[k] ?? 0), k]);
    const shown = order.sort((a, b) => b[0] - a[0]).slice(0, 6).map(([, k]) => k);
    const score = (of) => of.score.toFixed(1);
    const scores = old ? `${score(old)} → ${score(now)}` : score(now);
    return element("div", { className: network.name },
      heading(`${network.name}: ${old ? `${named(old)} → ` : ""}${named(now)}`),
      element("p", {}, network.critic ? `critic score ${scores}` : ""),
      bars(shown.map((k) =>
        [classes[k], old ? old.probabilities[k] : null, now.probabilities[k], k === label])));
  }));
}

/** The pixels that a unit sees: [left, top, right, bottom]. */
function boxOf(layer, row, column) {
  const { size, stride, first } = data.layers[layer - 1];
  const range = (unit) => [first + unit * stride, first + unit * stride + size];
  const limit = (pixel) => Math.min(Math.max(pixel, 0), 32);
  const [[top, bottom], [left, right]] = [range(row), range(column)];
  return [left, top, right, bottom].map(limit);
}
