// The page: opens images, runs requests, and keeps the link, the history and the form in step with them.

import * as api from "./api.js";
import { MASK_NAME, asCurl, asPython, copy, downloadMask } from "./code.js";
import * as history from "./history.js";
import * as mask from "./mask.js";
import { settingsInside } from "./parameters.js";
import * as settings from "./settings.js";
import * as stage from "./stage.js";
import { clearComplaints, complain, say } from "./messages.js";

const $ = (id) => document.getElementById(id);
const ASK_AGAIN_MS = 5000; // while a model is not ready, or has not told its samplers yet
let running = null; // the AbortController of the run

async function begin() {
  settings.build(keepLink);
  stage.build();
  listen();
  await connect();
  await history.build(restore).catch(() => {}); // a private window may keep nothing
  document.body.dataset.ready = "";
}

async function connect() {
  clearComplaints();
  try {
    await refreshModels();
    followLink();
  } catch (error) {
    complain(error);
  }
}

function listen() {
  $("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  $("cancel").addEventListener("click", () => running?.abort());
  $("again").addEventListener("click", () => (settings.model() ? generate() : connect()));
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) openFile(target.files[0]);
    target.value = "";
  });
  $("replace").addEventListener("click", () => $("file").click());
  $("reuse").addEventListener("click", reuse);
  $("keep-seed").addEventListener("click", () => {
    $("seed").value = stage.shownImage().seed;
    keepLink();
  });
  for (const button of $("copy").children) button.addEventListener("click", () => copyAs(button.dataset.copy));
  document.addEventListener("keydown", byKey);
  document.addEventListener("paste", ({ clipboardData }) => openFirst(clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    openFirst(event.dataTransfer.files);
  });
  addEventListener("hashchange", followLink);
}

function byKey(event) {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape") running?.abort();
}

async function refreshModels() {
  const cards = await api.models();
  settings.setModels(cards);
  if (cards.some((card) => !card.ready || !card.samplers)) setTimeout(() => refreshModels().catch(() => {}), ASK_AGAIN_MS);
}

// Images

function openFirst(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) openFile(file);
}

async function openFile(file) {
  try {
    await stage.open(file, file.name || "image.png");
  } catch (error) {
    return complain(error);
  }
  clearComplaints();
  if (!(file.size <= settings.model()?.limits.max_upload_bytes)) return;
  const inside = await settingsInside(file);
  if (!inside || stage.source().blob !== file) return; // another image was opened meanwhile
  const before = settings.read();
  settings.write(inside);
  keepLink();
  say("The settings in this image are in the form.", () => {
    settings.write(before);
    keepLink();
    say("The form is as it was.");
  });
}

async function reuse() {
  const { blob, name } = stage.shownImage();
  await stage.open(blob, name);
}

// Runs

async function generate() {
  if (running || !settings.model()) return;
  clearComplaints();
  const source = stage.source();
  if (!source) return complain(new api.Refused("Choose an image first.", { param: "image" }));
  const most = settings.model().limits.max_upload_bytes;
  if (source.blob.size > most) return complain(new Error(`The image has more than ${(most / 1e6).toFixed(1)} MB.`));
  const request = { ...current(), source };
  setRunning(new AbortController());
  stage.start(Number(request.settings.num_images ?? 1));
  try {
    const completed = await follow(api.paint(formOf(request), running.signal));
    setRunning(null);
    await finish(request, completed);
  } catch (error) {
    const cancelled = running?.signal.aborted;
    setRunning(null);
    if (cancelled) say("Cancelled.");
    else complain(error);
  }
}

function setRunning(controller) {
  const focused = [$("generate"), $("cancel")].includes(document.activeElement);
  if (!controller) stage.stop();
  running = controller;
  $("generate").hidden = Boolean(running);
  $("cancel").hidden = !running;
  if (focused) (running ? $("cancel") : $("generate")).focus({ preventScroll: true });
  if (running && innerWidth < 960) $("stage").scrollIntoView({ block: "start" });
}

/** Show the events as they come; gives the last one. */
async function follow(events) {
  for await (const [name, data] of events) {
    if (name === "completed") return data;
    const message = stage.progress(data);
    const quarter = Math.ceil(data.num_steps / 4);
    if (data.step % quarter === 0) $("said").textContent = message;
  }
}

async function finish(request, completed) {
  const { settings: requested, source } = request;
  const steps = Math.floor(completed.parameters.num_inference_steps * completed.parameters.strength);
  const seconds = Object.values(completed.timings).reduce((sum, part) => sum + part, 0);
  const firstSeed = completed.parameters.seed;
  const seed = BigInt(Number.isSafeInteger(firstSeed) ? firstSeed : requested.seed); // exact beyond 2 ** 53, too
  const images = completed.images.map(({ b64, format }, i) => {
    const bytes = Uint8Array.from(atob(b64), (character) => character.charCodeAt(0));
    const name = `${source.name.replace(/\.\w+$/, "")}_${completed.model}_seed${seed + BigInt(i)}`;
    return {
      blob: new Blob([bytes], { type: `image/${format}` }),
      name: `${name}.${format === "jpeg" ? "jpg" : format}`,
      seed: String(seed + BigInt(i)),
    };
  });
  const instead = completed.fallback_for ? ` instead of ${completed.fallback_for}` : "";
  const caption = `${completed.model}${instead}, ${steps} steps in ${seconds.toFixed(1)} s`;
  const result = {
    ...request,
    settings: { ...requested, model: completed.model, seed: String(seed) },
    images,
    caption,
  };
  stage.present(result);
  $("said").textContent = "The result is there.";
  if (completed.fallback_for) say(`${completed.fallback_for} is not ready: ${completed.model} made this image.`);
  else if (completed.truncated) say(`The model did not see the end of the prompt: ${completed.truncated}`);
  const { blob, name } = source;
  await history.add({ ...result, source: { blob, name } }, restore).catch(() => {});
}

/** What the form asks for now. */
const current = () => ({ settings: settings.read(), mask: stage.source() && mask.png(), blur: $("mask-blur").value });

function formOf({ settings: values, source, mask: painted, blur }) {
  const form = new FormData();
  for (const [name, value] of Object.entries(values)) form.append(name, value);
  form.append("image", source.blob, source.name);
  if (painted) {
    const bytes = Uint8Array.from(atob(painted), (character) => character.charCodeAt(0));
    form.append("mask", new Blob([bytes], { type: "image/png" }), "mask.png");
    form.append("mask_mode", "white");
    form.append("mask_blur", blur);
  }
  return form;
}

async function restore(entry) {
  if (running) return;
  await stage.open(entry.source.blob, entry.source.name);
  if (entry.mask) await mask.restore(entry.mask);
  $("mask-blur").value = entry.blur;
  stage.present({ ...entry, source: stage.source() });
  settings.write(entry.settings);
  clearComplaints();
  keepLink();
  say("The image and its settings are back.");
}

// The link

function keepLink() {
  if (!settings.model()) return; // nor is the link followed yet
  window.history.replaceState(null, "", `#${new URLSearchParams(settings.read())}`);
}

function followLink() {
  if (location.hash.length > 1) settings.write(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
}

async function copyAs(what) {
  keepLink();
  const request = { ...current(), name: stage.source()?.name ?? "image.jpg" };
  const text = { link: () => location.href, curl: () => asCurl(request), python: () => asPython(request) }[what]();
  await copy(text);
  if (what === "link") return say("Link copied.");
  if (request.mask) downloadMask(request.mask);
  say(`Copied. Run it where the image ${request.mask ? `and ${MASK_NAME}, now downloaded, are` : "is"}.`);
}

begin();
