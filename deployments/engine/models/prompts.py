"""Prompts to embeddings, exactly as diffusers' pipelines encode them, each prompt once (LRU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cachetools import LRUCache

from deployments.engine.request import Loras
from deployments.engine.state import Condition
from deployments.engine.transfers import to_device

MAX_CACHED_BYTES = 512 * 1024**2  # SDXL's keys and values take 26 MB a prompt, SD1.5's 4 to 8


class PromptEncoder:
    """One tokenizer and text encoder (SD1, SD2), or SDXL's pair; `zero_empty` is SDXL's rule for a missing prompt.

    `project` makes of embeddings (n, tokens, width) what the UNet takes.
    """

    def __init__(
        self,
        encoders: list[tuple[Any, Any]],
        project: Callable[[torch.Tensor], torch.Tensor],
        *,
        is_sdxl: bool,
        zero_empty: bool,
        one_by_one: bool,
    ) -> None:
        self._encoders = encoders
        self._project = project
        self._is_sdxl = is_sdxl
        self._zero_empty = zero_empty
        self._one_by_one = one_by_one  # a fixed batch shape, for results that do not depend on company
        self._cache: LRUCache[tuple[str | None, Loras], Condition] = LRUCache(MAX_CACHED_BYTES, _num_bytes)
        self.hits = self.misses = 0

    def encode(self, prompts: list[str | None], loras: Loras = ()) -> list[Condition]:
        """What steers the UNet, for each prompt; the caller has switched the adapters `loras` on.

        None is "no negative prompt", which SDXL embeds as zeros and SD as "".
        """
        keys = [(prompt if prompt is not None or self._zero_empty else "", loras) for prompt in prompts]
        missing = [key for key in dict.fromkeys(keys) if key not in self._cache]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        found = {key: self._cache[key] for key in keys if key in self._cache}
        chunks = [[key] for key in missing] if self._one_by_one else [missing] if missing else []
        for chunk in chunks:
            found.update(zip(chunk, self._forward([prompt for prompt, _ in chunk]), strict=True))
        self._cache.update((key, found[key]) for key in keys)
        return [found[key] for key in keys]

    def _forward(self, prompts: list[str | None]) -> list[Condition]:
        texts = [prompt or "" for prompt in prompts]
        hidden, pooled = [], None
        for tokenizer, encoder in self._encoders:
            output = self._run(tokenizer, encoder, texts)
            if self._is_sdxl:
                pooled = output[0] if output[0].ndim == 2 else pooled
                hidden.append(output.hidden_states[-2])
            else:
                hidden.append(output[0])
        embeddings = torch.cat(hidden, dim=-1)
        missing = to_device(torch.tensor([prompt is None for prompt in prompts]), embeddings.device)
        contexts = self._project(embeddings.masked_fill(missing.view(-1, 1, 1), 0))
        pools = [None] * len(texts) if pooled is None else list(pooled.masked_fill(missing.view(-1, 1), 0))
        return [
            Condition(context.clone(), pool, self._truncated(prompt or ""))
            for context, pool, prompt in zip(contexts, pools, prompts, strict=True)
        ]

    def _run(self, tokenizer: Any, encoder: Any, texts: list[str]) -> Any:
        tokens = tokenizer(
            texts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        masked = getattr(encoder.config, "use_attention_mask", False) and not self._is_sdxl
        mask = to_device(tokens.attention_mask, encoder.device) if masked else None
        ids = to_device(tokens.input_ids, encoder.device)
        return encoder(ids, attention_mask=mask, output_hidden_states=self._is_sdxl)

    def _truncated(self, text: str) -> str:
        """The tail of `text` that does not fit the encoder's window."""
        tokenizer = self._encoders[0][0]
        ids = tokenizer(text).input_ids
        return str(tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1])).strip()


def _num_bytes(condition: Condition) -> int:
    return condition.context.nbytes
