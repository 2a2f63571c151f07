"""The life of a request: choose the model, prepare the image, call the model, encode the result. Knows no HTTP."""

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
from deployments.errors import ModelNotReady, QueueFull
from deployments.handles.caller import ModelClient, OnProgress
from deployments.handles.readiness import Readiness
from deployments.handles.reasons import sentence_of
from deployments.images import flow
from deployments.images.codec import is_quick, is_quick_to_decode
from deployments.images.flow import PreparedImage, Reshape, no_reshape
from deployments.images.masks import MaskFile, MaskSource
from deployments.schemas import Img2ImgOptions, Img2ImgResult, OutputFormat, Settings

OnImageProgress = Callable[[int, Progress], None]  # gets the image's number


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request that can be run. Image i of `num_images` has the settings' seed + i.

    `fallback_for` is the model that was requested, if the settings' model is its fallback, else None.
    """

    settings: Settings
    num_images: int
    output_format: OutputFormat
    image: PreparedImage
    fallback_for: str | None = None

    def image_settings(self) -> list[Settings]:
        """The settings of each image."""
        seed = self.settings.seed
        return [self.settings.model_copy(update={"seed": seed + number}) for number in range(self.num_images)]


class Img2ImgService:
    """Handles the requests of every API. `models` holds the deployments' handles by model id."""

    def __init__(self, config: AppConfig, models: Mapping[str, DeploymentHandle], readiness: Readiness) -> None:
        self.config = config
        self._models = {model_id: ModelClient(handle) for model_id, handle in models.items()}
        self._readiness = readiness

    async def prepare(
        self,
        options: Img2ImgOptions,
        image: bytes,
        *,
        mask: MaskSource | None = None,
        reshape: Reshape = no_reshape,
    ) -> PreparedRequest:
        """Resolve the settings and prepare the image. Raises InvalidRequest (also UnknownModel) or ImageError.

        A model with fallbacks that is scaled to zero is started, for a fallback has settings of its own. That raises
        TimeoutError after the deadline.
        """
        seed = routing.pick_seed(options)
        requested = routing.choose_model(options.model, self.config, seed)

        async def prepare_for(model_id: str) -> PreparedRequest:
            settings = routing.resolve(options, self.config, model_id, seed)
            prepared = await self._prepare_image(image, settings.max_side, mask, reshape)
            fallback_for = None if model_id == requested else requested
            return PreparedRequest(settings, options.num_images, options.output_format, prepared, fallback_for)

        model_id = await self._first_ready(requested)
        prepared = await prepare_for(model_id)
        if self.config.models[requested].fallback and await self._cannot_start(model_id):
            fallback = await self._first_ready(requested)
            return prepared if fallback == model_id else await prepare_for(fallback)
        return prepared

    async def _first_ready(self, requested: str) -> str:
        return routing.first_ready(requested, self.config, await self._readiness.ready(requested))

    async def _cannot_start(self, model_id: str) -> bool:
        async with asyncio.timeout(self.config.limits.deadline_s):
            return bool(await self._readiness.reason(model_id))

    async def _prepare_image(
        self, image: bytes, max_side: int, mask: MaskSource | None, reshape: Reshape
    ) -> PreparedImage:
        def prepare() -> PreparedImage:
            limits = self.config.limits
            return flow.prepare(flow.decode(image, limits), limits, max_side, mask, reshape)

        quick = not isinstance(mask, MaskFile) and reshape is no_reshape and is_quick_to_decode(image)
        return prepare() if quick else await asyncio.to_thread(prepare)

    async def images(
        self, prepared: PreparedRequest, on_progress: OnImageProgress | None = None
    ) -> list[Img2ImgResult]:
        """All images, or none: the first failure cancels the rest, as does the deadline (TimeoutError).

        `on_progress` is called with an image's number and its progress. Raises what `img2img` does, with QueueFull in
        place of Serve's BackPressureError.
        """
        image = prepared.image
        calls = [
            self.img2img(
                image.pixels,
                settings,
                "interactive",
                mask=image.mask,
                on_progress=None if on_progress is None else partial(on_progress, number),
            )
            for number, settings in enumerate(prepared.image_settings())
        ]
        with translate_serve_errors(prepared.settings.model):
            async with asyncio.timeout(self.config.limits.deadline_s):
                return await _all_or_none(calls)

    async def encode(self, prepared: PreparedRequest, result: Img2ImgResult, quality: int | None = None) -> bytes:
        """The image's file, in the source's size; `quality`, 0 to 100, applies to JPEG and WebP."""
        encode = partial(_encode, prepared, result.settings, result.pixels, quality)
        quick = prepared.image.mask is None and is_quick(prepared.output_format, prepared.image.size)
        return encode() if quick else await asyncio.to_thread(encode)

    async def encode_preview(
        self, prepared: PreparedRequest, number: int, preview: Pixels, quality: int | None = None
    ) -> bytes:
        """A preview of image `number`, encoded as `encode` encodes the image."""
        return await asyncio.to_thread(_encode, prepared, prepared.image_settings()[number], preview, quality)

    async def img2img(
        self,
        pixels: Pixels,
        settings: Settings,
        priority: Priority,
        *,
        request_id: str | None = None,
        mask: Mask | None = None,
        on_progress: OnProgress | None = None,
    ) -> Img2ImgResult:
        """The image for fitted pixels, their mask and resolved settings, in the size of `pixels`.

        Starts a model that is scaled to zero. Raises ModelNotReady, EngineError and Serve's BackPressureError.
        """
        if reason := await self._readiness.reason(settings.model):
            raise ModelNotReady(settings.model, reason)
        engine_id = f"{request_id or ray_private.request_id()}-{uuid.uuid4().hex}"
        request = Img2ImgRequest(engine_id, pixels, priority=priority, mask=mask, **settings.for_engine())
        output = await self._models[settings.model].img2img(request, on_progress)
        return Img2ImgResult(settings, output.pixels, output.num_denoise_steps, output.truncated, output.timings)

    async def model_cards(self) -> list[dict[str, Any]]:
        """The models in OpenAI's list format, with each model's limits, state and, if it is not ready, the reason."""
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


@contextmanager
def translate_serve_errors(model: str) -> Iterator[None]:
    """Raise Serve's own exceptions as QueueFull or ModelNotReady; Serve would answer its own in plain text."""
    try:
        yield
    except BackPressureError as exc:
        raise QueueFull(exc.retry_after_s) from exc
    except DeploymentUnavailableError as exc:
        raise ModelNotReady(model, sentence_of(str(exc))) from exc


async def _all_or_none(coroutines: Sequence[Coroutine[Any, Any, Img2ImgResult]]) -> list[Img2ImgResult]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _encode(prepared: PreparedRequest, settings: Settings, pixels: Pixels, quality: int | None) -> bytes:
    return flow.finish(prepared.image, pixels, settings, prepared.output_format, quality).data
