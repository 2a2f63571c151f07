// The settings inside an image: finds the text in PNG, JPEG and WebP files, and reads it as this server writes it.

/** Sampler ids and what AUTOMATIC1111's web UI calls them: Sampler and Schedule type. */
export const SAMPLERS = {
  dpmpp_2m: ["DPM++ 2M", "Uniform"],
  dpmpp_2m_karras: ["DPM++ 2M", "Karras"],
  euler: ["Euler", "Automatic"],
  euler_ancestral: ["Euler a", "Automatic"],
  ddim: ["DDIM", "Automatic"],
  lcm: ["LCM", "Automatic"],
};

const NEGATIVE = "Negative prompt:";
const PAIR = /(?:^|,)\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"?|[^,]*)/g;
const MIN_PAIRS = 3; // a last line with fewer is part of the prompt
const EXIF_IFD = 0x8769;
const USER_COMMENT = 0x9286;
// what a TextDecoder calls latin1 is windows-1252
const latin = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const text = (bytes, encoding) => new TextDecoder(encoding).decode(bytes);

/** The settings in an image's file, under the names of the API's fields; null if there are none. */
export async function settingsInside(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let found = null;
  try {
    found = parametersIn(bytes);
  } catch {
    // a damaged file has no settings; whether it is an image is for others to say
  }
  return found === null ? null : settingsOf(found);
}

function parametersIn(bytes) {
  const view = new DataView(bytes.buffer);
  if (latin(bytes.subarray(1, 4)) === "PNG") return inPng(bytes, view);
  if (view.getUint16(0) === 0xffd8) return inJpeg(bytes, view);
  if (latin(bytes.subarray(0, 4)) === "RIFF" && latin(bytes.subarray(8, 12)) === "WEBP") return inWebp(bytes, view);
  return null;
}

function inPng(bytes, view) {
  for (let at = 8; at < bytes.length; at += 12 + view.getUint32(at)) {
    const kind = latin(bytes.subarray(at + 4, at + 8));
    const chunk = bytes.subarray(at + 8, at + 8 + view.getUint32(at));
    const end = chunk.indexOf(0);
    if (latin(chunk.subarray(0, end)) !== "parameters") continue;
    if (kind === "tEXt") return latin(chunk.subarray(end + 1));
    if (kind === "iTXt" && chunk[end + 1] === 0) {
      const language = chunk.indexOf(0, end + 3);
      return text(chunk.subarray(chunk.indexOf(0, language + 1) + 1), "utf-8");
    }
  }
  return null;
}

function inJpeg(bytes, view) {
  for (let at = 2; at < bytes.length && view.getUint16(at) !== 0xffda; at += 2 + view.getUint16(at + 2)) {
    const segment = bytes.subarray(at + 4, at + 2 + view.getUint16(at + 2));
    if (view.getUint16(at) === 0xffe1 && latin(segment.subarray(0, 4)) === "Exif") return inExif(segment.subarray(6));
  }
  return null;
}

function inWebp(bytes, view) {
  for (let at = 12; at < bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    const chunk = bytes.subarray(at + 8, at + 8 + length);
    if (latin(bytes.subarray(at, at + 4)) === "EXIF") {
      return inExif(latin(chunk.subarray(0, 4)) === "Exif" ? chunk.subarray(6) : chunk);
    }
    at += 8 + length + (length % 2);
  }
  return null;
}

function inExif(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = view.getUint16(0) === 0x4949;
  const entry = (ifd, tag) => {
    for (let i = 0; i < view.getUint16(ifd, little); i++) {
      if (view.getUint16(ifd + 2 + 12 * i, little) === tag) return ifd + 2 + 12 * i;
    }
    throw new RangeError(`no tag ${tag}`);
  };
  const root = entry(view.getUint32(4, little), EXIF_IFD);
  const comment = entry(view.getUint32(root + 8, little), USER_COMMENT);
  const [length, start] = [view.getUint32(comment + 4, little), view.getUint32(comment + 8, little)];
  const encoded = bytes.subarray(start, start + length);
  return latin(encoded.subarray(0, 8)) === "UNICODE\0" ? text(encoded.subarray(8), "utf-16be") : null;
}

function settingsOf(parameters) {
  const lines = parameters.trimEnd().split("\n");
  let pairs = Object.fromEntries([...lines.at(-1).matchAll(PAIR)].map(([, name, value]) => [name, unquoted(value)]));
  if (Object.keys(pairs).length < MIN_PAIRS) pairs = {};
  else lines.pop();
  const [prompt, ...negative] = `\n${lines.join("\n")}`.split(`\n${NEGATIVE}`);
  const size = /^(\d+)x(\d+)$/.exec(pairs.Size ?? "");
  const settings = {
    prompt: pairs.Prompt ?? prompt.slice(1),
    negative_prompt: pairs["Negative prompt"] ?? negative.join(`\n${NEGATIVE}`).replace(/^ /, ""),
    model: pairs.Model,
    strength: pairs["Denoising strength"],
    guidance_scale: pairs["CFG scale"],
    num_inference_steps: pairs.Steps,
    seed: pairs.Seed,
    sampler: samplerNamed(pairs.Sampler, pairs["Schedule type"]),
    max_side: size ? String(Math.max(Number(size[1]), Number(size[2]))) : undefined,
    loras: pairs.Loras,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function samplerNamed(sampler, schedule) {
  const ids = Object.keys(SAMPLERS).filter((id) => SAMPLERS[id][0] === sampler);
  return ids.find((id) => SAMPLERS[id][1] === schedule) ?? ids[0];
}

function unquoted(value) {
  if (value.length < 2 || !value.startsWith('"')) return value.trim();
  try {
    return String(JSON.parse(value));
  } catch {
    return value;
  }
}
