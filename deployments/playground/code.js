// The request in the form as a command line and as a program, which work as they are copied.

import { ADDRESS, hasKey } from "./api.js";

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
  if (request.mask) parts.push("-F mask=@mask.png");
  const fields = Object.entries(fieldsOf(request)).map(([name, value]) => shell(`${name}=${value}`));
  parts.push(...fields.map((field) => `--form-string ${field}`));
  parts.push(`-o ${shell(`${stem}.${many ? "json" : extension}`)}`);
  const mask = request.mask ? `printf %s ${shell(request.mask)} | base64 -d > mask.png\n` : "";
  return `${mask}${parts.join(" \\\n  ")}\n`;
}

export function asPython(request) {
  const { many, stem, extension } = reply(request);
  const fields = Object.entries(fieldsOf(request)).map((pair) => `    ${pair.map(String).map(python).join(": ")},`);
  const headers = [
    ...(many ? ['"Accept": "application/json"'] : []),
    ...(hasKey() ? [`"Authorization": f"Bearer {os.environ['API_KEY']}"`] : []),
  ];
  const mask = request.mask ? `, "mask": base64.b64decode(${python(request.mask)})` : "";
  const imports = [many || mask ? "import base64\n" : "", hasKey() ? "import os\n" : ""].join("");
  return [
    ...(imports ? [imports] : []),
    "import requests",
    "",
    "settings = {",
    ...fields,
    "}",
    `with open(${python(request.name)}, "rb") as image:`,
    `    files = {"image": image${mask}}`,
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

/** Put text on the clipboard; where the browser keeps that to secure pages, the old way. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
