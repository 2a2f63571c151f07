"""The way of a request: pick the model, read and fit the picture, ask the model, encode what it made. Knows no HTTP."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments import ray_private, routing
from deployments.config import AppConfig
from deployments.engine.request import Img2ImgRequest, Mask, Pixels, Priority, Progress
from deployments.handles.caller import ModelCaller
from deployments.handles.readiness import Readiness
from deployments.images.codec import SourceImage, decode_image, encode_image, is_quick, is_quick_to_decode
from deployments.images.geometry import fit_pixels, restore_size
from deployments.images.masks import MASK_BLUR, MaskMode, about_the_mask, fit_mask, paste_back, read_mask
from deployments.images.metadata import format_parameters
from deployments.schemas import Img2ImgOptions, Img2ImgResult, OutputFormat, Settings

OnProgress = Callable[[int, Progress], None]
Reshape = Callable[[SourceImage, Mask | None], tuple[SourceImage, Mask | None]]


def as_it_is(source: SourceImage, mask: Mask | None) -> tuple[SourceImage, Mask | None]:
    """The Reshape that changes nothing."""
    return source, mask


class ModelNotReady(Exception):
    """The model is starting, waiting for resources, or failed to load; `reason` says which."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model!r} is not ready: {self.reason}"


class QueueFull(Exception):
    """The model has as many requests as it may hold."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, eq=False)
class MaskFile:
    """A mask as it came: the picture's bytes, which part of it stands for change, and the feather's width in pixels."""

    data: bytes
    mode: MaskMode = "auto"
    blur: float = MASK_BLUR


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that can be run: image i of `num_images` has the settings' seed + i.

    `fitted` is the source as the model gets it. `mask` has the source's size.
    """

    settings: Settings
    num_images: int
    output_format: OutputFormat
    source: SourceImage
    fitted: Pixels
    mask: Mask | None = None
    mask_blur: float = MASK_BLUR

    def each(self) -> list[Settings]:
        """The settings of every image."""
        seed = self.settings.seed
        return [self.settings.model_copy(update={"seed": seed + number}) for number in range(self.num_images)]


class Img2ImgService:
    """What every door of the application does with a request; `models` are the deployments' handles by model id."""

    def __init__(self, config: AppConfig, models: Mapping[str, DeploymentHandle], readiness: Readiness) -> None:
        self.config = config
        self._models = {model_id: ModelCaller(handle) for model_id, handle in models.items()}
        self._readiness = readiness

    async def prepare(
        self,
        options: Img2ImgOptions,
        image: bytes,
        *,
        mask: MaskFile | None = None,
        reshape: Reshape = as_it_is,
    ) -> Prepared:
        """Decide the settings, decode the picture and its mask, and give both the shape that the caller wants.

        Raises InvalidRequest (also UnknownModel) or ImageError.
        """
        seed = routing.pick_seed(options)
        model_id = routing.choose_model(options.model, self.config, seed)
        model_id = routing.first_ready(model_id, self.config, await self._readiness.ready(model_id))
        settings = routing.resolve(options, self.config, model_id, seed)
        prepare = partial(self._prepare, options, settings, image, mask, reshape)
        quick = mask is None and reshape is as_it_is and is_quick_to_decode(image)
        return prepare() if quick else await asyncio.to_thread(prepare)

    def _prepare(
        self, options: Img2ImgOptions, settings: Settings, image: bytes, mask: MaskFile | None, reshape: Reshape
    ) -> Prepared:
        source, area = self._decode(image), None
        if mask is not None:
            with about_the_mask():
                picture = self._decode(mask.data)
            area = read_mask(picture, source.size, mask.mode)
        source, area = reshape(source, area)
        fitted = fit_pixels(source.pixels, max_side=settings.max_side, min_side=self.config.limits.min_side)
        blur = MASK_BLUR if mask is None else mask.blur
        return Prepared(settings, options.num_images, options.output_format, source, fitted, area, blur)

    async def images(self, prepared: Prepared, on_progress: OnProgress | None = None) -> list[Img2ImgResult]:
        """All images, or none: the first failure cancels the rest, as does the deadline (TimeoutError).

        `on_progress` hears of the progress of each image, by its number. Raises what `img2img` does, with QueueFull
        for Serve's BackPressureError.
        """
        mask = None if prepared.mask is None else await asyncio.to_thread(fit_mask, prepared.mask, prepared.fitted)
        with past_serves_handlers(prepared.settings.model):
            async with asyncio.timeout(self.config.limits.deadline_s):
                return await _all_or_none(
                    [
                        self.img2img(
                            prepared.fitted,
                            settings,
                            "interactive",
                            mask=mask,
                            on_progress=None if on_progress is None else partial(on_progress, number),
                        )
                        for number, settings in enumerate(prepared.each())
                    ]
                )

    async def encode(self, prepared: Prepared, result: Img2ImgResult, quality: int | None = None) -> bytes:
        """The picture's file, in the source's size; `quality`, 0 to 100, is of JPEG and WebP."""
        encode = partial(_encode, prepared, result.settings, result.pixels, quality)
        quick = prepared.mask is None and is_quick(prepared.output_format, prepared.source.size)
        return encode() if quick else await asyncio.to_thread(encode)

    async def encode_preview(
        self, prepared: Prepared, number: int, preview: Pixels, quality: int | None = None
    ) -> bytes:
        """A preview of image `number` as `encode` makes the image itself."""
        return await asyncio.to_thread(_encode, prepared, prepared.each()[number], preview, quality)

    async def img2img(
        self,
        pixels: Pixels,
        settings: Settings,
        priority: Priority,
        *,
        request_id: str | None = None,
        mask: Mask | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Img2ImgResult:
        """The image for fitted pixels (and their mask) and resolved settings, in the size that was sent.

        Raises ModelNotReady, EngineError, Serve's BackPressureError.
        """
        if reason := await self._readiness.reason(settings.model):
            raise ModelNotReady(settings.model, reason)
        engine_id = f"{request_id or ray_private.request_id()}-{uuid.uuid4().hex}"
        request = Img2ImgRequest(engine_id, pixels, priority=priority, mask=mask, **settings.for_engine())
        output = await self._models[settings.model].img2img(request, on_progress)
        return Img2ImgResult(settings, output.pixels, output.num_denoise_steps, output.truncated, output.timings)

    async def model_cards(self) -> list[dict[str, Any]]:
        """The models as OpenAI lists them, with what each can do and whether it is ready, and if not, why."""
        described = await self._readiness.describe()
        return [self._model_card(model_id, described[model_id]) for model_id in self._models]

    def _model_card(self, model_id: str, described: dict[str, Any]) -> dict[str, Any]:
        model, limits = self.config.models[model_id], self.config.limits
        return {
            "id": model_id,
            "object": "model",
            "created": 0,
            "owned_by": "img2img-serve",
            "aliases": list(model.aliases),
            "loras": list(model.loras),
            "checkpoint": model.checkpoint,
            "defaults": self.config.defaults_for(model_id).model_dump(),
            "limits": limits.model_dump(exclude={"deadline_s"}),
            **described,
        }

    def _decode(self, data: bytes) -> SourceImage:
        limits = self.config.limits
        return decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)


@contextmanager
def past_serves_handlers(model: str) -> Iterator[None]:
    """Serve answers its own exceptions itself, in plain text, before our handlers see them: rename those."""
    try:
        yield
    except BackPressureError as exc:
        raise QueueFull(exc.retry_after_s) from exc
    except DeploymentUnavailableError as exc:
        raise ModelNotReady(model, str(exc)) from exc


async def _all_or_none(coroutines: Sequence[Coroutine[Any, Any, Img2ImgResult]]) -> list[Img2ImgResult]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _encode(prepared: Prepared, settings: Settings, pixels: Pixels, quality: int | None) -> bytes:
    height, width = prepared.fitted.shape[:2]
    source = prepared.source
    pixels = restore_size(pixels, source.size)
    if prepared.mask is not None:
        pixels = paste_back(source.pixels, pixels, prepared.mask, prepared.mask_blur)
    return encode_image(
        pixels,
        prepared.output_format,
        parameters=format_parameters(settings, (width, height)),
        alpha=source.alpha,
        icc_profile=source.icc_profile,
        quality=quality,
    )
