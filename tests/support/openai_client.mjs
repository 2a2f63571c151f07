// The openai package against a server: node openai_client.mjs BASE_URL IMAGE. Prints what came back as one JSON object.
import { File } from "node:buffer";
import { createReadStream, readFileSync } from "node:fs";
import OpenAI, { toFile } from "openai";

globalThis.File ??= File; // Node.js 18 has it in that module only
const [baseURL, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const settings = { model: "sd15", prompt: "a cat", strength: 0.5, num_inference_steps: 8, seed: 7 };

const edited = await client.images.edit({ ...settings, image: createReadStream(path), n: 2, response_format: "b64_json" });

const image = await toFile(readFileSync(path), "image.png", { type: "image/png" });
const stream = await client.images.edit({ ...settings, image: [image], stream: true, partial_images: 2 });
const events = [];
for await (const event of stream) events.push(event);

const refused = await client.images.edit({ ...settings, image, response_format: "url" }).catch((error) => error);
const unknown = await client.models.retrieve("dall-e-2").catch((error) => error);
const models = [];
for await (const model of client.models.list()) models.push(model.id);

console.log(JSON.stringify({
  edited,
  events,
  models,
  retrieved: await client.models.retrieve("sd15"),
  errors: [refused, unknown].map((error) => ({ name: error.constructor.name, status: error.status, param: error.param })),
}));
