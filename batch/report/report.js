const PER_PAGE = 24;
const FIRST_FAILURES = 5;
const MORE_FAILURES = 50;
const LISTED_CHOICES = 300;
const CHOICE_CHARS = 70;
const TYPING_MS = 120;
const LABELS = {
  source: "Source", output: "Result", mask: "Mask", prompt: "Prompt", negative_prompt: "Negative prompt",
  truncated: "Not seen by the model", model: "Model", revision: "Revision", strength: "Strength",
  guidance_scale: "Guidance scale", num_inference_steps: "Steps", num_denoise_steps: "Steps run", seed: "Seed",
  sampler: "Sampler", max_side: "Longest side", loras: "LoRAs", size: "Size", queued_s: "Queued", denoise_s: "Denoising",
  total_s: "Total", attempts: "Attempts", finished_at: "Finished",
};

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const failed = data.rows.filter((row) => row.error_type);
const finished = data.rows.filter((row) => !row.error_type);
const state = { page: 0, split: 50, type: null, failures: FIRST_FAILURES, matches: finished, open: 0 };

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child != null));
  return node;
}

const number = (value) => value.toLocaleString("en");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const seconds = (value) => (value < 100 ? `${value.toPrecision(3)} s` : `${(value / 60).toFixed(1)} min`);
const minute = (time) => `${time.slice(0, 16).replace("T", " ")} UTC`;
const isSet = (value) => value != null && value !== "";
const clip = (text) => (text.length > CHOICE_CHARS ? `${text.slice(0, CHOICE_CHARS)}…` : text);
const address = (path) => path.split("/").map(encodeURIComponent).join("/");

function counts(rows, field) {
  const found = new Map();
  for (const row of rows) if (row[field] != null) found.set(row[field], (found.get(row[field]) ?? 0) + 1);
  return [...found].sort((a, b) => b[1] - a[1]);
}

function settings(row) {
  const numbers = { strength: row.strength, guidance: row.guidance_scale, steps: row.num_inference_steps, seed: row.seed };
  return Object.entries(numbers).filter(([, value]) => value != null).map(([name, value]) => el("span", {}, `${name} ${value}`));
}

function card(row, index) {
  const { box } = comparison(row);
  const end = row.source.lastIndexOf("/") + 1;
  const title = el("button", { type: "button", className: "name", title: row.source, onclick: () => openDetail(index) },
    el("span", { className: "folder" }, row.source.slice(0, end)), el("span", { className: "file" }, row.source.slice(end)));
  return el("li", { className: "card" },
    el("div", { className: "stage" }, box),
    title,
    row.prompt ? el("p", { className: "prompt", title: row.prompt }, row.prompt) : null,
    el("p", { className: "settings" }, el("span", { className: "model" }, row.model ?? ""), ...settings(row)),
  );
}

// Filters

function matcher() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [model, prompt] = ["model", "prompt"].map((id) => $(id).selectedOptions[0]?.chosen);
  return (row) => {
    if (model != null && row.model !== model) return false;
    if (prompt != null && row.prompt !== prompt) return false;
    if (!words.length) return true;
    row.text ??= Object.values(row).filter((value) => typeof value === "string").join("\n").toLowerCase();
    return words.every((word) => row.text.includes(word));
  };
}

function filter() {
  const isMatch = matcher();
  state.matches = finished.filter(isMatch);
  state.page = 0;
  state.failures = FIRST_FAILURES;
  drawFailures(failed.filter(isMatch));
  drawImages();
}

function fillChoice(id, every, noun) {
  const found = counts(data.rows, id);
  const options = found.slice(0, LISTED_CHOICES).map(([value, count]) =>
    Object.assign(new Option(`${clip(value) || "(empty)"} (${number(count)})`), { chosen: value }));
  const rest = found.length - options.length;
  const more = rest > 0 ? [Object.assign(new Option(`and ${plural(rest, noun)} more: search for them`), { disabled: true })] : [];
  $(id).replaceChildren(new Option(`${every} (${number(found.length)})`), ...options, ...more);
  $(id).addEventListener("change", filter);
}

// Drawing

function drawSummary() {
  const times = finished.map((row) => row.total_s).filter((time) => time != null).sort((a, b) => a - b);
  const models = counts(data.rows, "model").length;
  const facts = [
    [number(finished.length), "done"],
    [number(failed.length), "failed"],
    [number(models), models === 1 ? "model" : "models"],
    [times.length ? seconds(times[times.length >> 1]) : "–", "median time"],
  ];
  $("summary").classList.toggle("bad", failed.length > 0);
  $("summary").replaceChildren(...facts.map(([value, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const ended = data.rows.reduce((latest, row) => (row.finished_at > latest ? row.finished_at : latest), "");
  $("when").textContent = ended && `Finished ${minute(ended)}`;
}

function drawFailures(rows) {
  const types = counts(rows, "error_type");
  if (!types.some(([type]) => type === state.type)) state.type = null;
  const listed = state.type ? rows.filter((row) => row.error_type === state.type) : rows;
  $("failures").hidden = !rows.length;
  $("failures-title").textContent = `${number(rows.length)} failed`;
  $("failure-types").replaceChildren(...(types.length > 1 ? types : []).map(([type, count]) => el("button", {
    type: "button",
    ariaPressed: type === state.type,
    onclick: () => { state.type = type === state.type ? null : type; drawFailures(rows); },
  }, `${type} ${number(count)}`)));
  $("failure-list").replaceChildren(...listed.slice(0, state.failures).map((row) => el("li", {},
    el("strong", {}, row.source),
    el("span", { className: "type" }, row.error_type),
    el("p", {}, row.error ?? "", row.attempts > 1 ? el("small", {}, ` after ${row.attempts} attempts`) : null))));
  const rest = listed.length - state.failures;
  $("more-failures").hidden = rest <= 0;
  $("more-failures").textContent = `Show ${number(Math.min(rest, MORE_FAILURES))} more of ${number(listed.length)}`;
  $("more-failures").onclick = () => { state.failures += MORE_FAILURES; drawFailures(rows); };
}

function drawImages() {
  const { matches } = state;
  const pages = Math.max(1, Math.ceil(matches.length / PER_PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const first = state.page * PER_PAGE;
  const rows = matches.slice(first, first + PER_PAGE);
  const range = pages > 1 ? `${number(first + 1)} to ${number(first + rows.length)} of ` : "";
  $("count").textContent = range + plural(matches.length, "image");
  $("grid").replaceChildren(...rows.map((row, i) => card(row, first + i)));
  $("nothing").hidden = matches.length > 0 || !data.rows.length;
  $("pager").hidden = pages < 2;
  $("page").value = state.page + 1;
  $("page").max = pages;
  $("pages").textContent = `of ${number(pages)}`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page === pages - 1;
}

function turnTo(page) {
  state.page = page;
  drawImages();
  $("count").focus({ preventScroll: true });
  $("count").scrollIntoView({ block: "start" });
}

function openDetail(index) {
  const row = state.matches[index];
  state.open = index;
  const { box, images, ready } = comparison(row);
  $("detail-title").textContent = row.source;
  $("detail-image").replaceChildren(box);
  ready.then(() => sharpen(row, images));
  $("detail-open").href = `./${address(row.output)}`;
  $("detail-list").replaceChildren(...facts(row).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
  $("detail-previous").disabled = index === 0;
  $("detail-next").disabled = index === state.matches.length - 1;
  if (!$("detail").open) $("detail").showModal();
}

function facts(row) {
  const texts = { ...row, size: row.width && `${row.width} × ${row.height}` };
  for (const name of ["queued_s", "denoise_s", "total_s"]) if (row[name] != null) texts[name] = seconds(row[name]);
  if (row.finished_at) texts.finished_at = minute(row.finished_at);
  return Object.keys(LABELS).filter((name) => isSet(texts[name])).map((name) => [LABELS[name], texts[name]]);
}

// Wiring

let typing;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, TYPING_MS); });
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("clear").addEventListener("click", () => { $("controls").reset(); moveTo($("all-sliders"), 50); filter(); });
$("all-sliders").addEventListener("input", () => {
  state.split = Number($("all-sliders").value);
  for (const slider of document.querySelectorAll("#grid .pair input")) moveTo(slider, state.split);
});
$("previous").addEventListener("click", () => turnTo(state.page - 1));
$("next").addEventListener("click", () => turnTo(state.page + 1));
$("page").addEventListener("change", () => turnTo(Math.trunc(Number($("page").value)) - 1 || 0));
$("detail-previous").addEventListener("click", () => openDetail(state.open - 1));
$("detail-next").addEventListener("click", () => openDetail(state.open + 1));
$("detail-close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
fillChoice("model", "All models", "model");
fillChoice("prompt", "All prompts", "prompt");
drawSummary();
filter();
