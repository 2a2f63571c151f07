// What the page tells: complaints that stay until they are dealt with, and notes that pass.

import * as settings from "./settings.js";

const $ = (id) => document.getElementById(id);
const TRY_AGAIN = [0, 401, 429, 503, 504]; // statuses after which the same request may do; 0: there was no answer
let undo = null;
let timer = 0;

$("toast").querySelector("button").addEventListener("click", () => undo());

/** Say what went wrong: beside the field at fault, else above the button. */
export function complain(error) {
  const told = error.message.replace(`${error.param}: `, "").replace(/[^.?!]$/, "$&.");
  const hint = error.retryAfter ? ` Wait about ${error.retryAfter} s.` : "";
  const message = told[0].toUpperCase() + told.slice(1) + hint;
  if (settings.mark(error.param, message)) return;
  $("problem").hidden = false;
  $("problem").firstElementChild.textContent = message;
  $("again").hidden = !TRY_AGAIN.includes(error.status ?? -1);
}

export function clearComplaints() {
  $("problem").hidden = true;
  for (const place of document.querySelectorAll("[data-bad]")) settings.unmark(place);
}

/** A passing note; `back` undoes what it tells of. */
export function say(text, back = null) {
  undo = back;
  $("toast").hidden = false;
  $("toast").firstElementChild.textContent = text;
  $("toast").lastElementChild.hidden = !back;
  clearTimeout(timer);
  timer = setTimeout(() => ($("toast").hidden = true), back ? 12000 : 4000);
}
