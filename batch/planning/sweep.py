"""Several values for one option: `--strength 0.3,0.5 --model a,b --seeds 4` makes every combination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Self

from pydantic import ValidationError

from deployments.allowed_values import refusal
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions

# The options that take several values, in the order of nested loops. Prompts contain commas, so they take one value.
AXES = ("model", "sampler", "max_side", "num_inference_steps", "strength", "guidance_scale", "seed")


@dataclass(frozen=True, slots=True)
class Sweep:
    """The values of each option, and the number of `seeds` of each image: its own and those that follow."""

    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InvalidRequest(f"seeds must be a whole number of at least 1, not {self.seeds}", "seeds")

    @classmethod
    def parse(cls, texts: Mapping[str, str | None], seeds: int = 1) -> Self:
        """The sweep of options: `texts` holds comma-separated values, or None, by a name in AXES.

        Duplicate values count once. Raises InvalidRequest, which names the option and its allowed values.
        """
        values = {name: _parse(name, text) for name in AXES if (text := texts.get(name)) is not None}
        return cls(values, seeds)

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of one value each, in a fixed order; one empty combination without any values."""
        return [dict(zip(self.values, each, strict=True)) for each in product(*self.values.values())]


def _parse(name: str, text: str) -> tuple[Any, ...]:
    try:
        options = [Img2ImgOptions.model_validate({name: part.strip()}) for part in text.split(",")]
    except ValidationError as error:
        raise InvalidRequest(f"in {text!r} {refusal(error)[1]}", name) from error
    values = tuple(dict.fromkeys(getattr(each, name) for each in options))
    if "" in values:
        raise InvalidRequest(f"{text!r} has an empty value before or after a comma", name)
    return values
