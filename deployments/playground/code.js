// The request in the form as a command line and as a program. A mask is a file beside the image, MASK_NAME.

import { ADDRESS, hasKey } from "./api.js";

export const MASK_NAME = "mask.png";

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const python = (text) => JSON.stringify(text); // whose strings are Python's, too
const file = (name) => `@"${name.replace(/[\\"]/g, "\\$&")}"`;

/** What differs between one image and several: how it is asked for, and what comes back. */
function reply({ settings, name }) {
  const many = Number(settings.num_images) > 1;
  const extension = { jpeg: "jpg" }[settings.output_format] ?? settings.output_format;
  return { many, stem: `${name.replace(/\.\w+$/, "")}_${settings.model}`, extension };
}

/** The fields besides the image; `mask` is a PNG in base64 or null. */
const fieldsOf = ({ settings, mask, blur }) => ({ ...settings, ...(mask && { mask_mode: "white", mask_blur: blur }) });

export function asCurl(request) {
  const { many, stem, extension } = reply(request);
  const parts = [`curl --fail ${shell(ADDRESS)}`];
  if (many) parts.push("-H 'Accept: application/json'");
  if (hasKey()) parts.push('-H "Authorization: Bearer $API_KEY"');
  parts.push(`-F ${shell(`image=${file(request.name)}`)}`);
  if (request.mask) parts.push(`-F mask=@${MASK_NAME}`);
  const fields = Object.entries(fieldsOf(request)).map(([name, value]) => shell(`${name}=${value}`));
  parts.push(...fields.map((field) => `--form-string ${field}`));
  parts.push(`-o ${shell(`${stem}.${many ? "json" : extension}`)}`);
  return `${parts.join(" \\\n  ")}\n`;
}

export function asPython(request) {
  const { many, stem, extension } = reply(request);
  const fields = Object.entries(fieldsOf(request)).map((pair) => `    ${pair.map(String).map(python).join(": ")},`);
  const headers = [
    ...(many ? ['"Accept": "application/json"'] : []),
    ...(hasKey() ? [`"Authorization": f"Bearer {os.environ['API_KEY']}"`] : []),
  ];
  const files = { image: request.name, ...(request.mask && { mask: MASK_NAME }) };
  const opened = Object.entries(files).map(([field, name]) => `open(${python(name)}, "rb") as ${field}`);
  const sent = Object.keys(files).map((field) => `"${field}": ${field}`);
  const imports = [many ? "import base64\n" : "", hasKey() ? "import os\n" : ""].join("");
  return [
    ...(imports ? [imports] : []),
    "import requests",
    "",
    "settings = {",
    ...fields,
    "}",
    `with ${opened.join(", ")}:`,
    `    files = {${sent.join(", ")}}`,
    `    reply = requests.post(${python(ADDRESS)}, data=settings, files=files, headers={${headers.join(", ")}})`,
    "reply.raise_for_status()",
    ...(many ? saveEach : saveOne)(stem, extension),
    "",
  ].join("\n");
}

const saveOne = (stem, extension) => [
  `with open(${python(`${stem}.${extension}`)}, "wb") as file:`,
  "    file.write(reply.content)",
];
const saveEach = (stem, extension) => [
  'for made in reply.json()["images"]:',
  `    with open(${python(`${stem}_`)} + f"{made['seed']}.${extension}", "wb") as file:`,
  "        file.write(base64.b64decode(made[\"b64\"]))",
];

/** Download a mask, a PNG in base64, for the code to send. */
export function downloadMask(base64) {
  const link = { href: `data:image/png;base64,${base64}`, download: MASK_NAME };
  Object.assign(document.createElement("a"), link).click();
}

/** Put text on the clipboard; where the browser keeps that to secure pages, the old way. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
