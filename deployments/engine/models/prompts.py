"""Prompts to embeddings, exactly as diffusers' pipelines encode them; each prompt once (LRU)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from cachetools import LRUCache

from deployments.engine.request import Loras
from deployments.engine.transfers import to_device

MAX_CACHED_BYTES = 512 * 1024**2  # keys and values: 26 MB a prompt in SDXL, 4 to 8 MB in SD1.5


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbedding:
    """`encoder_kv` (tokens, all keys and values), SDXL's `pooled` (width,), the text beyond the encoder's window."""

    encoder_kv: torch.Tensor
    pooled: torch.Tensor | None = None
    truncated: str = ""


class PromptEncoder:
    """CLIP tokenizers and text encoders: one pair (SD1, SD2), or two whose embeddings are concatenated (SDXL).

    `project` makes the UNet's keys and values of embeddings (n, tokens, width). `penultimate` takes the last hidden
    layer but one and the pooled output, as SDXL does. `zero_missing` embeds a missing prompt as zeros instead of "".
    `batch_invariant` encodes one prompt at a time, for results that are bitwise independent of batch composition.
    """

    def __init__(
        self,
        encoders: list[tuple[Any, Any]],
        project: Callable[[torch.Tensor], torch.Tensor],
        *,
        penultimate: bool,
        zero_missing: bool,
        batch_invariant: bool,
    ) -> None:
        for tokenizer, encoder in encoders:  # a configuration without a length stands for 10^30 tokens
            tokenizer.model_max_length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        self._encoders = encoders
        self._project = project
        self._penultimate = penultimate
        self._zero_missing = zero_missing
        self._batch_invariant = batch_invariant
        self._cache: LRUCache[tuple[str | None, Loras], PromptEmbedding] = LRUCache(
            MAX_CACHED_BYTES, attrgetter("encoder_kv.nbytes")
        )
        self.hits = self.misses = 0

    @property
    def num_tokens(self) -> int:
        """The tokens of every embedding."""
        return int(self._encoders[0][0].model_max_length)

    def encode(self, prompts: list[str | None], loras: Loras = ()) -> list[PromptEmbedding]:
        """The embedding of each prompt, None for a missing one. The caller has switched `loras` on."""
        keys = [(prompt if prompt is not None or self._zero_missing else "", loras) for prompt in prompts]
        missing = [key for key in dict.fromkeys(keys) if key not in self._cache]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        found = {key: self._cache[key] for key in keys if key in self._cache}
        chunks = [[key] for key in missing] if self._batch_invariant else [missing] if missing else []
        for chunk in chunks:
            found.update(zip(chunk, self._forward([prompt for prompt, _ in chunk]), strict=True))
        self._cache.update((key, found[key]) for key in keys)
        return [found[key] for key in keys]

    def _forward(self, prompts: list[str | None]) -> list[PromptEmbedding]:
        texts = [prompt or "" for prompt in prompts]
        hidden, pooled = [], None
        for tokenizer, encoder in self._encoders:
            output = self._run(tokenizer, encoder, texts)
            if self._penultimate:
                pooled = output[0] if output[0].ndim == 2 else pooled
                hidden.append(output.hidden_states[-2])
            else:
                hidden.append(output[0])
        embeddings = torch.cat(hidden, dim=-1)
        missing = to_device(torch.tensor([prompt is None for prompt in prompts]), embeddings.device)
        encoder_kv = self._project(embeddings.masked_fill(missing.view(-1, 1, 1), 0))
        pools = [None] * len(texts) if pooled is None else list(pooled.masked_fill(missing.view(-1, 1), 0))
        return [
            PromptEmbedding(kv.clone(), pool, self._truncated(text))
            for kv, pool, text in zip(encoder_kv, pools, texts, strict=True)
        ]

    def _run(self, tokenizer: Any, encoder: Any, texts: list[str]) -> Any:
        tokens = tokenizer(
            texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        masked = getattr(encoder.config, "use_attention_mask", False) and not self._penultimate
        mask = to_device(tokens.attention_mask, encoder.device) if masked else None
        ids = to_device(tokens.input_ids, encoder.device)
        return encoder(ids, attention_mask=mask, output_hidden_states=self._penultimate)

    def _truncated(self, text: str) -> str:
        """The end of `text` that does not fit the encoder's window."""
        tokenizer = self._encoders[0][0]
        ids = tokenizer(text).input_ids
        return str(tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1])).strip()
