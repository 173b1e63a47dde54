"""Tokenizers made in code and tiny text encoders for the bundled models.

Flux reads a prompt twice: CLIP's pooled vector steers every block, T5's tokens are attended to. Wan reads it once, with
UMT5. All are trained from scratch with their transformer. Known words are single tokens; anything else falls back to
characters, so any prompt can be read, though only the world's words mean something.
"""

from typing import Any

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from couple.bundled import COLOURS, INSTRUCTIONS, MOTIONS, SHAPES, SPRITES
from couple.bundled.blocks import STYLES

WORDS = (*COLOURS, *SHAPES, "a", "the", "one")
VIDEO_WORDS = tuple(dict.fromkeys((*COLOURS, *SPRITES, *" ".join(MOTIONS).split(), "a", "the", "one")))
EDIT_WORDS = tuple(dict.fromkeys((*" ".join(INSTRUCTIONS).split(), *STYLES, "a", "the", "scene")))
CLIP_LENGTH = 16
T5_LENGTH = 8


def _byte_alphabet() -> list[str]:
    """The printable stand-ins of GPT-2's byte-level BPE for the 256 bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]


def clip_tokenizer(words: tuple[str, ...] = WORDS) -> CLIPTokenizer:
    """Byte-level BPE whose merges spell the known words and nothing else."""
    alphabet = _byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet]
    merges: list[tuple[str, str]] = []
    for word in sorted(words, key=len, reverse=True):
        parts = [*word[:-1], word[-1] + "</w>"]
        # Merged from the end, so that every piece carries its own suffix and words cannot break one another.
        while len(parts) > 1:
            pair = (parts[-2], parts[-1])
            if pair not in merges:
                merges.append(pair)
            parts[-2:] = ["".join(pair)]
            if parts[-1] not in tokens:
                tokens.append(parts[-1])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def t5_tokenizer(words: tuple[str, ...] = WORDS) -> T5TokenizerFast:
    """Unigram model over the known words and the printable ASCII characters."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    vocab += [("▁" + word, -1.0) for word in words] + [("▁", -4.0)]
    vocab += [(chr(i), -10.0) for i in range(33, 127)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=T5_LENGTH)


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_LENGTH,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def t5_encoder(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**_t5_sizes(tokenizer), feed_forward_proj="gated-gelu"))


def umt5_encoder(tokenizer: T5TokenizerFast) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**_t5_sizes(tokenizer)))


def _t5_sizes(tokenizer: T5TokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def tokenize(tokenizer: CLIPTokenizer | T5TokenizerFast, prompts: list[str], length: int) -> torch.Tensor:
    """Token ids as `FluxPipeline` makes them, shape (B, length), int64."""
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
