// The settings inside an image, as the server's one parser reads them, under the names of the form's fields.

import { pngInfo } from "./api.js";

/** Sampler ids and what AUTOMATIC1111's web UI calls them: Sampler and Schedule type. */
export const SAMPLERS = {
  dpmpp_2m: ["DPM++ 2M", "Uniform"],
  dpmpp_2m_karras: ["DPM++ 2M", "Karras"],
  euler: ["Euler", "Automatic"],
  euler_ancestral: ["Euler a", "Automatic"],
  ddim: ["DDIM", "Automatic"],
  lcm: ["LCM", "Automatic"],
};

/** The settings in an image's file, under the names of the API's fields; null if there are none. */
export async function settingsInside(file) {
  const parameters = await pngInfo(file).catch(() => ({})); // whether it is an image is for others to say
  return Object.keys(parameters).length ? settingsOf(parameters) : null;
}

function settingsOf(parameters) {
  const sides = [parameters["Size-1"], parameters["Size-2"]].filter(Boolean).map(Number);
  const settings = {
    prompt: parameters.Prompt,
    negative_prompt: parameters["Negative prompt"],
    model: parameters.Model,
    strength: parameters["Denoising strength"],
    guidance_scale: parameters["CFG scale"],
    num_inference_steps: parameters.Steps,
    seed: parameters.Seed,
    sampler: samplerNamed(parameters.Sampler, parameters["Schedule type"]),
    max_side: sides.length ? String(Math.max(...sides)) : undefined,
    loras: parameters.Loras,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function samplerNamed(sampler, schedule) {
  const ids = Object.keys(SAMPLERS).filter((id) => SAMPLERS[id][0] === sampler);
  return ids.find((id) => SAMPLERS[id][1] === schedule) ?? ids[0];
}
