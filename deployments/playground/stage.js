// The image: the input with its mask, the progress of a run, and the result beside what it was made from.

import * as mask from "./mask.js";

const $ = (id) => document.getElementById(id);
const contents = { source: null, result: null, run: null };

export const source = () => contents.source;
export const result = () => contents.result;
export const shownImage = () => contents.result?.images[contents.result.shown];

export function build() {
  for (const input of $("views").querySelectorAll("input")) input.addEventListener("change", () => show(input.value));
  $("split").addEventListener("input", () => $("frame").style.setProperty("--split", `${$("split").value}%`));
  $("brush").addEventListener("click", () => useBrush($("mask-tools").hidden));
  mask.build();
}

/** Make an image the input, with an empty mask. Raises where the browser cannot show it. */
export async function open(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`This browser can show no image in ${name}.`);
  }
  const old = contents.source;
  contents.source = { blob, name, url, width: image.naturalWidth, height: image.naturalHeight };
  if (old && old !== contents.result?.source && old !== contents.run?.source) URL.revokeObjectURL(old.url);
  mask.reset(image.naturalWidth, image.naturalHeight);
  useBrush(false);
  if (!contents.run) show("input");
}

/** A run of so many images begins. */
export function start(count) {
  contents.run = { source: contents.source, previews: Array(count).fill(null), steps: Array(count).fill(null) };
  $("preview").hidden = true;
  $("progress").removeAttribute("value");
  $("step").textContent = "Sending the image";
  show("running");
}

/** News of one image of the run; says in words how far the run is. */
export function progress({ image, place, step, num_steps, preview }) {
  const { previews, steps } = contents.run;
  steps[image] = { place, step, num_steps };
  if (preview) previews[image] = `data:image/png;base64,${preview}`;
  if (previews[0]) Object.assign($("preview"), { src: previews[0], hidden: false });
  if (preview && previews.length > 1) tiles(previews.map((url) => url ?? contents.run.source.url), 0);
  const reported = steps.filter(Boolean);
  const done = reported.reduce((sum, one) => sum + one.step, 0);
  const all = num_steps * steps.length;
  if (done) $("progress").value = done / all;
  const waiting = !done && Math.min(...reported.map((one) => one.place));
  $("step").textContent = waiting ? `Number ${waiting} in line` : done < all ? `Step ${done} of ${all}` : "Finishing";
  return $("step").textContent;
}

/** The run is over; what was shown before it comes back, unless a result follows. */
export function stop() {
  contents.run = null;
  show("input");
}

/** Show a result: {source, images: [{blob, name, seed}], caption, ...}. */
export function present(result) {
  for (const image of contents.result?.images ?? []) URL.revokeObjectURL(image.url);
  for (const image of result.images) image.url = URL.createObjectURL(image.blob);
  contents.result = { ...result, shown: 0 };
  pick(0);
  show("result");
}

export function show(view) {
  const { source, result, run } = contents;
  const seen = run ? "running" : view === "result" && result ? "result" : source ? "input" : "empty";
  const from = { running: run?.source, result: result?.source, input: source }[seen];
  $("stage").dataset.view = seen;
  if (from) {
    $("before").src = from.url;
    $("before").alt = seen === "result" ? `Before: ${from.name}` : from.name;
    $("frame").style.setProperty("--ratio", from.width / from.height);
  }
  for (const input of $("views").querySelectorAll("input")) {
    input.disabled = run || !{ input: source, result }[input.value];
    input.checked = input.value === (seen === "result" ? "result" : "input");
  }
  $("running").hidden = !run;
  if (seen === "result") pick(result.shown);
  else if (seen !== "running" || run.previews.length === 1) tiles([]);
  if (seen === "input") $("caption").firstElementChild.textContent = `${from.name}, ${from.width} × ${from.height}`;
  $("keep-seed").hidden = seen !== "result";
}

function pick(number) {
  const { result } = contents;
  const image = result.images[number];
  result.shown = number;
  Object.assign($("after"), { src: image.url, alt: `After: ${result.settings.prompt ?? ""}` });
  Object.assign($("download"), { href: image.url, download: image.name });
  $("caption").firstElementChild.textContent = `${result.caption}, seed ${image.seed}`;
  tiles(result.images.map((one) => one.url), number, pick);
}

/** Small images under the large one, where there are several. */
function tiles(urls, shown, choose) {
  const buttons = urls.length < 2 ? [] : urls.map((url, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.disabled = !choose;
    button.setAttribute("aria-pressed", number === shown);
    button.setAttribute("aria-label", `Image ${number + 1}`);
    button.append(Object.assign(new Image(), { src: url, alt: "" }));
    button.addEventListener("click", () => choose(number));
    return button;
  });
  const focused = [...$("tiles").querySelectorAll("button")].indexOf(document.activeElement);
  $("tiles").replaceChildren(...buttons.map((button) => {
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  buttons[focused]?.focus();
}

export function useBrush(on) {
  $("mask-tools").hidden = !on;
  $("brush").setAttribute("aria-pressed", on);
  $("stage").toggleAttribute("data-brush", on);
}
