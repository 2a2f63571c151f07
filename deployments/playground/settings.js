// The form: fields that follow the chosen model, their values as an object of strings, and complaints beside them.

import { SAMPLERS } from "./parameters.js";

const $ = (id) => document.getElementById(id);
const NAMES = [
  "prompt", "negative_prompt", "model", "sampler", "strength", "guidance_scale", "num_inference_steps", "max_side",
  "loras", "seed", "num_images", "output_format",
];
const SLIDERS = {
  strength: { label: "Strength", min: 0, max: 1, step: 0.01 },
  guidance_scale: { label: "Guidance", min: 0, max: 20, most: 50, step: 0.5, fine: 0.1 },
  num_inference_steps: { label: "Steps", min: 1, max: 100, step: 1 },
  max_side: { label: "Max side", min: 64, max: 2048, least: 16, step: 64, fine: 1 },
};
const LORA = { min: 0, max: 2, least: -4, most: 4, step: 0.05 };

let cards = [];
let chosen = null; // the card whose defaults are in the form

export const model = () => cards.find((card) => card.id === $("model").value) ?? chosen;

/** Make the sliders, and call `changed` whenever a value changes. */
export function build(changed) {
  for (const [name, options] of Object.entries(SLIDERS)) $("sliders").append(slider(name, name, options));
  $("settings").addEventListener("input", (event) => {
    if (event.target === $("model")) choose(model());
    unmark(event.target.closest(".field, [data-field]"));
    explain();
    changed();
  });
  $("dice").addEventListener("click", () => {
    $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
    unmark($("seed").closest(".field"));
    changed();
  });
}

/** Take in what `GET /v1/models` says; values that were chosen stay. */
export function setModels(now) {
  const before = $("model").value;
  cards = now;
  const label = (card) => (card.ready ? card.id : `${card.id} (not ready)`);
  $("model").replaceChildren(...cards.map((card) => new Option(label(card), card.id)));
  const selected = cards.find((card) => card.id === before) ?? cards.find((card) => card.ready) ?? cards[0];
  $("model").value = selected.id;
  choose(model());
}

/** What is in the form, as the API takes it. Empty fields are left out, but not a negative prompt that was cleared. */
export function read() {
  const values = Object.fromEntries(NAMES.map((name) => [name, name === "loras" ? loras() : field(name).value]));
  const cleared = (name) => name === "negative_prompt" && model()?.defaults.negative_prompt;
  return Object.fromEntries(Object.entries(values).filter(([name, value]) => value !== "" || cleared(name)));
}

/** Put values into the form; what is not named takes the model's default. */
export function write(values) {
  const card = cards.find(({ id, aliases }) => id === values.model || aliases.includes(values.model)) ?? model();
  $("model").value = card.id;
  choose(card);
  const all = { negative_prompt: "", seed: "", num_images: 1, output_format: "png", ...card.defaults, ...values };
  for (const name of NAMES) if (!["model", "loras"].includes(name)) put(name, all[name] ?? "");
  const weights = new Map((all.loras ?? "").split(",").map((part) => part.split(":")));
  for (const input of $("loras").querySelectorAll("[data-lora]")) set(input, weights.get(input.dataset.lora) ?? 0);
  for (const marked of document.querySelectorAll("[data-bad]")) unmark(marked);
  explain();
}

/** Say what is wrong beside the field, and go there. False if the page shows no such field. */
export function mark(name, message) {
  const control = name && ($("settings").elements.namedItem(name) ?? document.querySelector(`[data-field="${name}"]`));
  const place = control?.closest(".field, [data-field]");
  if (!place?.checkVisibility()) return false;
  const error = document.createElement("p");
  Object.assign(error, { className: "error", id: `${name}-error`, textContent: message });
  unmark(place);
  place.dataset.bad = "";
  place.append(error);
  const input = control.matches("input, textarea, select") ? control : place.querySelector("input");
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", error.id);
  input.focus();
  return true;
}

export function unmark(place) {
  if (!place?.hasAttribute("data-bad")) return;
  delete place.dataset.bad;
  place.querySelector(".error").remove();
  place.querySelector("[aria-invalid]").removeAttribute("aria-invalid");
}

const field = (name) => $("settings").elements.namedItem(name);

function loras() {
  const on = [...$("loras").querySelectorAll("[data-lora]")].filter((input) => Number(input.value));
  return on.map((input) => `${input.dataset.lora}:${input.value}`).join(",");
}

/** Move to another model: values that were the old one's defaults become the new one's. */
function choose(card) {
  const options = card.samplers ?? [card.defaults.sampler];
  const sampler = $("sampler").value;
  $("sampler").replaceChildren(...options.map((id) => new Option(samplerLabel(id), id)));
  $("sampler").value = options.includes(sampler) ? sampler : card.defaults.sampler;
  limit("num_inference_steps", card.limits.max_steps);
  limit("max_side", card.limits.max_side);
  $("num_images").max = card.limits.max_images;
  $("prompt").placeholder = card.defaults.prompt;
  if (chosen?.id !== card.id) {
    for (const [name, value] of Object.entries(card.defaults)) {
      const untouched = !chosen || field(name)?.value === String(chosen.defaults[name] ?? "");
      if (field(name) && untouched) put(name, value ?? "");
    }
    const rows = card.loras.map((name) => slider(`lora-${name}`, null, { ...LORA, label: name, lora: name }));
    $("loras").replaceChildren($("loras").firstElementChild, ...rows);
    $("loras").hidden = !card.loras.length;
  }
  chosen = card;
  explain();
}

function explain() {
  const card = model();
  if (!card) return; // the models are not known yet
  const steps = Number(field("num_inference_steps").value);
  const run = Math.min(steps, Math.floor(steps * Number(field("strength").value)));
  $("run-note").textContent = `At this strength ${run} of ${steps} steps are run.`;
  const facts = [card.family, card.native_size && `made for ${card.native_size} px`, card.device];
  $("model-note").textContent = card.ready ? facts.filter(Boolean).join(", ") : `Not ready: ${card.reason}`;
  $("model-note").classList.toggle("warn", !card.ready);
}

function slider(id, name, { label, min, max, least = min, most = max, step, fine = step, lora }) {
  const row = $("slider").content.firstElementChild.cloneNode(true);
  const [text, range, number] = row.children;
  Object.assign(text, { htmlFor: id, textContent: label });
  Object.assign(range, { min, max, step, ariaLabel: `${label}, slider` });
  Object.assign(number, { id, min: least, max: most, step: fine });
  if (name) number.name = name;
  if (lora) number.dataset.lora = lora;
  range.addEventListener("input", () => set(number, range.value));
  number.addEventListener("input", () => set(number, number.value));
  set(number, min);
  return row;
}

/** A number field and its slider, which is filled up to where it stands. */
function set(number, value) {
  const range = number.previousElementSibling;
  if (number.value !== String(value)) number.value = value;
  range.value = value;
  const share = (range.value - range.min) / (range.max - range.min);
  range.style.setProperty("--fill", `calc(${share} * (100% - 1rem) + 0.5rem)`);
}

function put(name, value) {
  if (name in SLIDERS) set(field(name), value);
  else field(name).value = value;
}

function limit(name, most) {
  const number = field(name);
  number.max = most;
  number.previousElementSibling.max = Math.min(most, SLIDERS[name].max);
  set(number, number.value);
}

function samplerLabel(id) {
  const [sampler, schedule] = SAMPLERS[id] ?? [id, "Automatic"];
  return schedule === "Karras" ? `${sampler} Karras` : sampler;
}
