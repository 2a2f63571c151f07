// What the page asks of the server: the models, an image's settings, and images with their progress.

const KEY = "img2img-key";
const address = (path) => new URL(path, document.baseURI).href;

export const ADDRESS = address("v1/img2img");

/** A refusal in the server's words; `param` names the field at fault, `retryAfter` is in seconds. */
export class Refused extends Error {
  constructor(message, { status = 0, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, param, retryAfter });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** The models' cards. */
export async function models() {
  const reply = await ask("v1/models", {});
  return (await reply.json()).data;
}

/** The settings inside an image's file, by the names of AUTOMATIC1111's web UI; empty if there are none. */
export async function pngInfo(file) {
  const image = await new Promise((resolve, reject) => {
    const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: reject });
    reader.readAsDataURL(file);
  });
  const headers = { "content-type": "application/json" };
  const reply = await ask("sdapi/v1/png-info", { method: "POST", body: JSON.stringify({ image }), headers });
  return (await reply.json()).parameters;
}

/** Events `progress` and, last, `completed`, as [name, data]. Aborting the signal frees the server. */
export async function* paint(form, signal) {
  const headers = { accept: "text/event-stream" };
  const reply = await ask("v1/img2img", { method: "POST", body: form, headers, signal });
  for await (const [name, data] of events(reply.body)) {
    if (name === "error") throw new Refused(data.error.message, data.error);
    yield [name, data];
    if (name === "completed") return;
  }
  throw new Refused("The connection ended before the image was done.");
}

async function ask(path, options) {
  for (;;) {
    const reply = await send(path, options);
    if (reply.ok) return reply;
    if (reply.status !== 401) throw await refusal(reply);
    const key = await askForKey();
    if (!key) throw await refusal(reply);
    sessionStorage.setItem(KEY, key);
  }
}

async function send(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = key === null ? {} : { authorization: `Bearer ${key}` };
  try {
    return await fetch(address(path), { ...options, headers: { ...options.headers, ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached. Is it running?");
  }
}

async function refusal(reply) {
  const error = await reply.json().then((body) => body.error, () => undefined);
  const message = error?.message ?? `The server answered ${reply.status} ${reply.statusText}.`;
  const wait = Number.parseInt(reply.headers.get("retry-after"), 10);
  return new Refused(message, { ...error, status: reply.status, retryAfter: Number.isNaN(wait) ? null : wait });
}

async function askForKey() {
  const dialog = document.getElementById("ask-key");
  const field = document.getElementById("key");
  const note = document.getElementById("key-note");
  note.textContent = hasKey() ? "The server did not take that key." : "It is kept until this tab is closed.";
  field.value = dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "use" ? field.value.trim() : null;
}

/** Server-Sent Events as [name, data], from a body that may be cut anywhere. */
async function* events(body) {
  let [name, data] = ["message", ""];
  for await (const line of lines(body)) {
    if (line === "") {
      if (data) yield [name, JSON.parse(data)];
      [name, data] = ["message", ""];
    } else if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let line = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const [first, ...others] = value.split("\n");
      line += first;
      for (const next of others) {
        yield line.replace(/\r$/, "");
        line = next;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it has failed already where the request was aborted
  }
}
