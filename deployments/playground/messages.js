// The page's messages: errors that stay until they are resolved, and notes that disappear.

import * as settings from "./settings.js";

const $ = (id) => document.getElementById(id);
const TRY_AGAIN = [0, 401, 429, 503, 504]; // statuses after which the same request may succeed; 0: no reply
let undo = null;
let timer = 0;

$("toast").querySelector("button").addEventListener("click", () => undo());

/** Show an error beside its field, else above the button. */
export function complain(error) {
  const text = error.message.replace(`${error.param}: `, "").replace(/[^.?!]$/, "$&.");
  const hint = error.retryAfter ? ` Wait about ${error.retryAfter} s.` : "";
  const message = text[0].toUpperCase() + text.slice(1) + hint;
  if (settings.mark(error.param, message)) return;
  $("problem").hidden = false;
  $("problem").firstElementChild.textContent = message;
  $("again").hidden = !TRY_AGAIN.includes(error.status ?? -1);
}

export function clearComplaints() {
  $("problem").hidden = true;
  for (const place of document.querySelectorAll("[data-bad]")) settings.unmark(place);
}

/** A note that disappears; `back` undoes the action it reports. */
export function say(text, back = null) {
  undo = back;
  $("toast").hidden = false;
  $("toast").firstElementChild.textContent = text;
  $("toast").lastElementChild.hidden = !back;
  clearTimeout(timer);
  timer = setTimeout(() => ($("toast").hidden = true), back ? 12000 : 4000);
}
