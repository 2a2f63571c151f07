// The mask brush: strokes on a canvas over the image, by pointer or keyboard, and the mask they make.

const MOST = 2048; // pixels a side of a mask; the server scales it to the image
const $ = (id) => document.getElementById(id);
const canvas = $("mask");
const cursor = $("cursor");
const context = canvas.getContext("2d", { willReadFrequently: true });
let at = { x: 0, y: 0 }; // in canvas pixels
let painting = false;

/** Listen to the pointer, the keyboard and the tools. */
export function build() {
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    painting = true;
    stroke(move(event), at);
  });
  canvas.addEventListener("pointermove", (event) => {
    const from = at;
    const to = move(event);
    if (painting) stroke(from, to);
  });
  canvas.addEventListener("lostpointercapture", () => (painting = false));
  canvas.addEventListener("pointerleave", () => (cursor.hidden = true));
  canvas.addEventListener("blur", () => (cursor.hidden = true));
  canvas.addEventListener("keydown", byKey);
  $("invert").addEventListener("click", () => fill("source-out"));
  $("clear-mask").addEventListener("click", () => context.clearRect(0, 0, canvas.width, canvas.height));
}

/** An empty mask for an image of this size. */
export function reset(width, height) {
  const scale = Math.min(1, MOST / Math.max(width, height));
  const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  Object.assign(canvas, { width: columns, height: rows });
  at = { x: canvas.width / 2, y: canvas.height / 2 };
}

/** A PNG, white where the image may change, as base64; null if nothing is painted. */
export function png() {
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  if (!data.some((value, i) => i % 4 === 3 && value > 0)) return null;
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const flat = copy.getContext("2d");
  flat.drawImage(canvas, 0, 0);
  fill("source-in", "#fff", flat);
  fill("destination-over", "#000", flat);
  return copy.toDataURL("image/png").split(",")[1];
}

/** Paint a mask that `png` made. */
export async function restore(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
  context.putImageData(pixels, 0, 0);
  fill("source-in");
}

const width = () => (Number($("brush-size").value) / 100) * Math.max(canvas.width, canvas.height);
const colour = () => getComputedStyle(canvas).color;

function fill(how, paint = colour(), target = context) {
  target.globalCompositeOperation = how;
  target.fillStyle = paint;
  target.fillRect(0, 0, canvas.width, canvas.height);
  target.globalCompositeOperation = "source-over";
}

function move(event) {
  const box = canvas.getBoundingClientRect();
  at = {
    x: ((event.clientX - box.left) / box.width) * canvas.width,
    y: ((event.clientY - box.top) / box.height) * canvas.height,
  };
  show();
  return at;
}

function show() {
  const scale = canvas.getBoundingClientRect().width / canvas.width;
  cursor.hidden = false;
  cursor.style.translate = `${at.x * scale}px ${at.y * scale}px`;
  cursor.style.width = `${width() * scale}px`;
}

function stroke(from, to) {
  const erase = document.querySelector("input[name=tool]:checked").value === "erase";
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  Object.assign(context, { lineWidth: width(), lineCap: "round", strokeStyle: colour() });
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x + 0.01, to.y); // a line of no length has no ends to be seen
  context.stroke();
  context.globalCompositeOperation = "source-over";
}

function byKey(event) {
  const step = width() / 2;
  const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const grow = { "[": -2, "]": 2 }[event.key];
  if (event.key in ways) {
    const clamp = (value, most) => Math.min(most, Math.max(0, value));
    at = { x: clamp(at.x + ways[event.key][0], canvas.width), y: clamp(at.y + ways[event.key][1], canvas.height) };
  } else if (grow) $("brush-size").value = Number($("brush-size").value) + grow;
  else if (event.key === " ") stroke(at, at);
  else return;
  event.preventDefault();
  show();
}
