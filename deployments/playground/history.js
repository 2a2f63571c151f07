// The last results, kept in this browser with all that made them, as a strip of thumbnails.

const KEEP = 24;
const THUMB = 192; // pixels
const STORE = "results";
const $ = (id) => document.getElementById(id);
const list = $("history").querySelector("ol");

let opening = null;

/** Show what is kept, and call `restore` with an entry that is chosen. */
export async function build(restore) {
  $("clear-history").addEventListener("click", async () => {
    await within("readwrite", (store) => store.clear());
    await render(restore);
    $("generate").focus();
  });
  await render(restore);
}

/** Keep {settings, source: {blob, name}, mask, blur, images, caption}; the oldest beyond the limit go. */
export async function add(entry, restore) {
  const thumbnail = await shrink(entry.images[0].blob);
  await within("readwrite", (store) => store.add({ ...entry, thumbnail }));
  const keys = await within("readonly", (store) => store.getAllKeys());
  for (const key of keys.slice(0, -KEEP)) await within("readwrite", (store) => store.delete(key));
  await render(restore);
}

async function render(restore) {
  const entries = (await within("readonly", (store) => store.getAll())).reverse();
  for (const image of list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("history").hidden = !entries.length;
  list.replaceChildren(...entries.map((entry) => {
    const [item, button, image] = ["li", "button", "img"].map((name) => document.createElement(name));
    const { prompt = "", model, seed } = entry.settings;
    button.type = "button";
    button.title = prompt;
    button.setAttribute("aria-label", `Restore: ${prompt}, ${model}, seed ${seed}`);
    button.addEventListener("click", () => restore(entry));
    Object.assign(image, { src: URL.createObjectURL(entry.thumbnail), alt: "" });
    button.append(image);
    item.append(button);
    return item;
  }));
}

async function shrink(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, THUMB / Math.min(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.ceil(bitmap.width * scale), height: Math.ceil(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
}

/** What an operation of the store gives. */
async function within(mode, operation) {
  opening ??= promised(Object.assign(indexedDB.open("img2img-playground", 1), {
    onupgradeneeded: ({ target }) => target.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true }),
  }));
  return promised(operation((await opening).transaction(STORE, mode).objectStore(STORE)));
}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
