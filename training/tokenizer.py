"""Makes the small CLIP tokenizer that every tiny checkpoint carries: all bytes, and whole tokens for common words."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from training.prompts import all_words

MAX_TOKENS = 77


def _merges() -> list[tuple[str, str]]:
    """The merges that make each known word one token, most frequent first.

    NOTE: the trainer of `tokenizers` breaks ties by hash order, so its merges differ from run to run.
    """
    words = [[*word[:-1], word[-1] + "</w>"] for word in all_words()]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    symbols: list[str] = []
    for symbol in word:
        if symbols and (symbols[-1], symbol) == pair:
            symbols[-1] += symbol
        else:
            symbols.append(symbol)
    return symbols


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
