"use strict";

// The before/after pair of one image, with its thumbnails. Runs before report.js, whose helpers it calls later.

const CACHED_CHUNKS = 64;

// Thumbnails come in chunks: blocks of this page, or scripts beside it that call reportChunk.

const chunks = new Map(); // number -> promise of its pairs, the longest unused first
const awaited = new Map();
window.reportChunk = (which, pairs) => awaited.get(which)?.(pairs);

function chunk(which) {
  const pairs = chunks.get(which) ?? load(which);
  chunks.delete(which);
  chunks.set(which, pairs);
  if (chunks.size > CACHED_CHUNKS) chunks.delete(chunks.keys().next().value);
  return pairs;
}

function load(which) {
  const block = $(`chunk-${which}`);
  if (block) return Promise.resolve(JSON.parse(block.textContent));
  return new Promise((resolve) => {
    awaited.set(which, resolve);
    document.head.append(el("script", { src: `report_files/${which}.js`, onload() { this.remove(); }, onerror: () => resolve([]) }));
  });
}

// An image before and after: two layers, the upper one cut at the slider.

function comparison(row) {
  const images = ["before", "after"].map((side) => el("img", { className: side, alt: `${side}: ${row.source}`, hidden: true }));
  const slider = el("input", { type: "range", min: 0, max: 100, step: "any", ariaLabel: `Before and after of ${row.source}` });
  const box = el("div", { className: "pair" }, images[1], images[0], el("div", { className: "handle" }), slider);
  box.style.setProperty("--ratio", row.width && row.height ? row.width / row.height : 1);
  slider.addEventListener("input", () => box.style.setProperty("--split", `${slider.value}%`));
  moveTo(slider, state.split);
  return { box, images, ready: show(box, row, images) };
}

function moveTo(slider, split) {
  slider.value = split;
  slider.dispatchEvent(new Event("input"));
}

async function show(box, row, images) {
  const pair = row.thumb ? (await chunk(row.thumb[0]))[row.thumb[1]] : null;
  box.classList.add(pair?.[0] ? "ready" : pair ? "single" : "missing");
  images.forEach((image, side) => {
    if (!pair?.[side]) return;
    image.src = `data:image/jpeg;base64,${pair[side]}`;
    image.hidden = false;
  });
}

function sharpen(row, images) {
  const files = [data.sources && `${data.sources}/${address(row.source)}`, `./${address(row.output)}`];
  files.forEach((file, side) => {
    if (!file || images[side].hidden) return;
    const full = new Image();
    full.onload = () => { images[side].src = file; };
    full.src = file;
  });
}
