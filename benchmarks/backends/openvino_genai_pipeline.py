"""OpenVINO GenAI on the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai

from benchmarks.backends.openvino_export import export
from benchmarks.backends.pipelines import shared
from deployments.engine.request import Img2ImgRequest, Pixels

HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoPipeline:
    """Its Image2ImagePipeline with DDIM and torch's random numbers, on the CPU.

    OpenVINO silently takes float32 where the processor has no bfloat16: `dtype` is what it really computes in.
    """

    def __init__(self, checkpoint: str, cache_dir: Path, dtype: str) -> None:
        folder = cache_dir / f"openvino-{Path(checkpoint).name}"
        if not (folder / "model_index.json").is_file():  # the export writes it last
            export(checkpoint, folder)
        self._pipeline = openvino_genai.Image2ImagePipeline(folder, "CPU", INFERENCE_PRECISION_HINT=HINTS[dtype])
        capable = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.dtype: str = dtype if capable else "float32"

    def __call__(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """One image after the other: a call takes one prompt."""
        return [self._image(request) for request in requests]

    def _image(self, request: Img2ImgRequest) -> Pixels:
        strength, guidance_scale, steps = shared(request)
        images = self._pipeline.generate(
            request.prompt,
            ov.Tensor(np.ascontiguousarray(request.pixels[None])),
            strength=strength,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=openvino_genai.TorchGenerator(request.seed),
        )
        return np.array(images.data[0])
