"""Results of a folder job with red sources and blue outputs, for the tests of its report."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from batch.record.results import Job, Result
from batch.report.writer import REPORT_FILE, write_report
from batch.storage.storage import Storage, open_storage
from deployments.engine.request import Pixels
from deployments.schemas import Settings
from tests.support.images import file_of

RED, BLUE = (220, 30, 30), (30, 30, 220)
MODELS = ("sd15", "sd21v")
PROMPTS = ("in the style of picasso", "a watercolour", "a woodblock print")
MARKUP = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>{{ data }} \u2028"


def result(number: int, **changes: Any) -> Result:
    """The result of the finished image `number`; every third has the next prompt, every second the next model."""
    values = {"negative_prompt": None, "strength": 0.3, "guidance_scale": 12.0, "num_inference_steps": 20}
    values |= {"model": MODELS[number % 2], "prompt": PROMPTS[number % 3], "seed": 2**60 + number}
    settings = Settings(**values | {"sampler": "dpmpp_2m", "max_side": 512})  # type: ignore[arg-type]
    job = Job(source=f"in/{number:05}.png", output=f"out/{number:05}.png", settings=settings)
    facts = {"width": 64, "height": 48, "total_s": 1.5, "attempts": 1}
    return Result.of(job, **facts).model_copy(update=changes)


def failure(number: int, kind: str = "NotAnImage", message: str = "the PNG image is damaged") -> Result:
    return result(number, error_type=kind, error=message, attempts=3)


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


class Folders:
    """An input and an output folder, with a red source and a blue output for every finished result."""

    def __init__(self, root: Path, results: list[Result]) -> None:
        self.results = results
        self.inputs: Storage = open_storage(str(root / "my photos"))
        self.outputs: Storage = open_storage(str(root / "results"))
        self.report = root / "results" / REPORT_FILE
        for one in results:
            if one.error_type is None:
                self.inputs.write(one.source, file_of(plain(RED), "png"))
                self.outputs.write(str(one.output), file_of(plain(BLUE), "png"))

    def write(self) -> Path:
        write_report(self.results, self.inputs, self.outputs, title="title <in> a test")
        return self.report


def colours(jpeg: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"), int)
