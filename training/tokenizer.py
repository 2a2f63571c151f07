"""Makes the small CLIP tokenizer that every tiny checkpoint carries: all bytes, and whole tokens for common words."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

MAX_TOKENS = 77
_WORDS = (
    "a an and at by for from in into of on over the to under with without "
    "art black blue blurry bright cat city clouds cyberpunk dark detailed digital dog drawing face fantasy flowers "
    "forest girl gold golden green highly house illustration ink landscape light lake low man moon mountain night oil "
    "old painting pencil person photo photograph pink portrait quality realistic red river sea sketch sky snow soft "
    "style summer sun sunset tree trees vintage watercolor water white winter woman yellow young"
).split()


def _merges() -> list[tuple[str, str]]:
    """The merges, most frequent first, that make each known word one token."""
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = WhitespaceSplit()
    bpe.train_from_iterator(_WORDS, BpeTrainer(end_of_word_suffix="</w>", show_progress=False))
    return [(left, right) for left, right in json.loads(bpe.to_str())["model"]["merges"]]


def make_tokenizer(folder: Path | None = None, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer of 77 tokens for any text; saved to `folder` (vocab.json, merges.txt) when one is given.

    SDXL's second tokenizer is the same with `pad_token="!"`.
    """
    symbols = sorted(ByteLevel.alphabet())
    merges = _merges()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocabulary, merges, pad_token=pad_token, model_max_length=MAX_TOKENS)
    if folder is not None:
        tokenizer.save_pretrained(folder)
        tokenizer.backend_tokenizer.model.save(str(folder))
    return tokenizer
