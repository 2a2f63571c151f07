"""Stable Diffusion 1 and 2 and what is distilled from them (LCM): a UNet with cross-attention, CLIP and a VAE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, get_args

import torch
from diffusers import StableDiffusionImg2ImgPipeline

from deployments.engine.errors import CheckpointError
from deployments.engine.models.checkpoint import Checkpoint, CheckpointKind
from deployments.engine.models.prompts import PromptEmbedding, PromptEncoder
from deployments.engine.models.samplers import PREDICTION_TYPES, Samplers
from deployments.engine.models.unet import CachedUNet, UNetCondition
from deployments.engine.models.vae import VaeCodec, vae_decoder, vae_encoder
from deployments.engine.networks import Backend, BackendSlot, Denoiser, FixedBatch
from deployments.engine.request import Img2ImgRequest, Loras, Sampler
from deployments.engine.sampling import StepTable
from deployments.engine.state import DenoiseState, LatentShape
from deployments.engine.transfers import to_device

REPRODUCIBLE_ROWS = {"cpu": 2, "mps": 2, "cuda": 8}  # of every forward in reproducible mode
DEFAULT_SIDE = 64  # of the latents, where the configuration does not say
OTHER_TASKS = {9: "an inpainting UNet", 8: "an instruction-editing UNet", 5: "a depth UNet", 7: "an upscaler"}


def _check(pipeline: Any) -> None:
    takes, latents = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if takes != latents:
        raise CheckpointError(
            f"image-to-image needs a UNet of {latents} input channels, and this one takes {takes}: "
            f"{OTHER_TASKS.get(takes, 'made for another task')}"
        )
    for key in ("class_embed_type", "encoder_hid_dim_type"):
        if pipeline.unet.config.get(key) is not None:
            raise CheckpointError(
                f"its UNet needs more than prompts and images: it has {key} {pipeline.unet.config[key]}"
            )
    prediction_type = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise CheckpointError(f"prediction_type {prediction_type!r} is none of {', '.join(PREDICTION_TYPES)}")


def _overflows(pipeline: Any) -> tuple[bool, bool]:
    """With v-prediction the UNet's attention does. The VAEs have the flag `force_upcast` by default, and do not."""
    return pipeline.scheduler.config.get("prediction_type") == "v_prediction", False


class StableDiffusion:
    """A family of the engine, see `networks.CompilableFamily`; `network` is the UNet."""

    kind = CheckpointKind(
        pipeline_class=StableDiffusionImg2ImgPipeline,
        class_name=r"StableDiffusion(?!XL|3)|LatentConsistencyModel",
        file_prefix="cond_stage_model.",
        needed=("vae", "unet", "scheduler", "tokenizer", "text_encoder"),
        unneeded={"safety_checker": None, "requires_safety_checker": False},
        check=_check,
        overflows=_overflows,
    )

    def __init__(self, checkpoint: Checkpoint, *, reproducible: bool = False) -> None:
        self.checkpoint = checkpoint
        self.reproducible = reproducible
        self.device, self.dtype = checkpoint.device, checkpoint.dtype
        self._pipeline = pipeline = checkpoint.pipeline
        self.network, self.vae = CachedUNet(pipeline.unet), pipeline.vae
        self.vae_dtypes: tuple[torch.dtype, torch.dtype] = checkpoint.vae_dtypes
        self.weights_stay_on_device = not hasattr(pipeline.unet, "_hf_hook")
        self._guidance_width: int | None = self.network.unet.config.time_cond_proj_dim
        self.guidance: Literal["cfg", "embedded"] = "cfg" if self._guidance_width is None else "embedded"
        denoiser: Denoiser = self.network
        if reproducible:
            denoiser = FixedBatch(self.network, REPRODUCIBLE_ROWS[self.device.type])
        self._eager = Backend("eager", denoiser, vae_encoder(self.vae), vae_decoder(self.vae))
        self.slot = BackendSlot(self._eager)
        self.codec = VaeCodec(checkpoint, self.slot, batch_invariant=reproducible)
        self.size_multiple = self.codec.factor
        self._samplers = Samplers(pipeline.scheduler.config)
        self._prompts = self._prompt_encoder()

    @property
    def name(self) -> str:
        """sd1 or sd2."""
        return "sd2" if self.network.unet.config.use_linear_projection else "sd1"

    @property
    def denoiser(self) -> Denoiser:
        """The UNet in use: the backend's, but for LoRAs, of which compiled networks know nothing."""
        return (self._eager if self.checkpoint.loras.active else self.slot.backend).denoiser

    def check(self, request: Img2ImgRequest) -> None:
        """Raises InvalidRequest for a LoRA that the checkpoint does not have."""
        self.checkpoint.loras.check(request.loras)

    def table(self, sampler: Sampler, steps: int, denoise_steps: int, latent_shape: LatentShape) -> StepTable:
        """The same for every latent shape. Raises InvalidRequest."""
        return self._samplers.table(sampler, steps, denoise_steps)

    def use_loras(self, loras: Loras) -> None:
        """Switch these LoRAs on, and all others off."""
        self.checkpoint.loras.use(loras)

    def condition(self, states: Sequence[DenoiseState]) -> None:
        """Set the states' `conditions` and `truncated`; prompts with the same LoRAs are encoded together."""
        loras = attrgetter("request.loras")
        for names, group in groupby(sorted(states, key=loras), key=loras):
            self.use_loras(names)
            self._condition(list(group), names)

    def _condition(self, states: list[DenoiseState], loras: Loras) -> None:
        prompts = [prompt for state in states for prompt in _prompts_of(state)]
        embeddings = iter(self._prompts.encode(prompts, loras))
        for state in states:
            rows = [next(embeddings) for _ in range(state.num_rows)]
            tembs = self._tembs(state, rows)
            state.conditions = [UNetCondition(temb, row.encoder_kv) for temb, row in zip(tembs, rows, strict=True)]
            state.truncated = " … ".join(dict.fromkeys(row.truncated for row in rows if row.truncated))

    def _tembs(self, state: DenoiseState, rows: list[PromptEmbedding]) -> list[torch.Tensor]:
        """What the time steps add in the ResNets, (steps, channels) for each row."""
        temb = self.network.temb(self._timesteps(state), guidance=self._embedded_guidance(state))
        return [temb] * len(rows)

    def _timesteps(self, state: DenoiseState) -> torch.Tensor:
        return to_device(torch.from_numpy(state.table.timesteps), self.device)

    def _embedded_guidance(self, state: DenoiseState) -> torch.Tensor | None:
        """The guidance scale as an input, for UNets distilled with it (Luo et al. 2023, 4.2)."""
        if self._guidance_width is None:
            return None
        scale = torch.tensor([state.request.guidance_scale - 1])
        embedding = self._pipeline.get_guidance_scale_embedding(scale, self._guidance_width)
        return torch.as_tensor(embedding).to(self.device, self.dtype)

    def _prompt_encoder(self) -> PromptEncoder:
        return PromptEncoder(
            [(self._pipeline.tokenizer, self._pipeline.text_encoder)],
            self.network.encoder_kv,
            penultimate=False,
            zero_missing=False,
            batch_invariant=self.reproducible,
        )

    @property
    def native_shape(self) -> LatentShape:
        """The latents' height and width that the checkpoint was trained for."""
        size = self.network.unet.config.sample_size or DEFAULT_SIDE
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    def example_inputs(self, rows: int, latent_shape: LatentShape) -> tuple[torch.Tensor, ...]:
        """Random latents (rows, channels, h, w), temb (rows, channels) and encoder_kv (rows, tokens, channels)."""
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(rows, self.vae.config.latent_channels, *latent_shape, generator=generator)
        temb = torch.randn(rows, self.network.temb_width, generator=generator)
        tokens = self._prompts.num_tokens
        encoder_kv = torch.randn(rows, tokens, self.network.kv_width, generator=generator)
        return (latents.to(self.device), *(x.to(self.device, self.dtype) for x in (temb, encoder_kv)))

    def describe(self) -> dict[str, Any]:
        """What the loaded checkpoint is."""
        return {
            "prediction_type": self._samplers.prediction_type,
            "samplers": list(get_args(Sampler)),
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "native_size": self.native_shape[1] * self.codec.factor,
            "size_multiple": self.size_multiple,
        }

    def stats(self) -> dict[str, int]:
        """Hits and misses of the prompts' and the images' caches."""
        caches = {"prompt": self._prompts, "image": self.codec}
        return {f"{name}_{kind}": getattr(cache, kind) for name, cache in caches.items() for kind in ("hits", "misses")}


def _prompts_of(state: DenoiseState) -> list[str | None]:
    """The prompts of a request's rows: unconditional (if guided), conditional."""
    return [*([state.request.negative_prompt] if state.guided else []), state.request.prompt]
