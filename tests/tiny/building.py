"""What every tiny family shares: seeded modules, tokenizers made in code, text encoders, pictures.

Tokenizers spell prompts letter by letter, so any prompt works and two prompts give two embeddings.
"""

import functools
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

PROMPTS = ("a pink star", "two grey boats at sea", "an old oak in snow")


@dataclass(frozen=True)
class Family:
    """One pipeline class in one setting.

    Attributes:
        build: makes the pipeline; called once.
        settings: maps k to the keyword arguments of the k-th call, without its generator.
    """

    build: Callable[[], Any]
    settings: Callable[[int], Mapping[str, Any]]

    def pipeline(self) -> Any:
        """The pipeline, the same object at every call."""
        return _built(self.build)

    def arguments(self, k: int) -> dict[str, Any]:
        """Keyword arguments of the k-th call, with a fresh generator of seed k."""
        return {**self.settings(k), "generator": torch.Generator().manual_seed(k)}


@functools.cache
def _built(build: Callable[[], Any]) -> Any:
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def module(make: Callable[..., Any], *args: Any, **config: Any) -> Any:
    """`make(*args, **config)` in eval mode with seeded weights, the global random state left alone.

    Matrices that start at zero (ControlNet's convolutions, adaptive norms, output projections) are filled, or
    the network would ignore its condition or return zeros and the tests would see nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make(*args, **config)
        for parameter in net.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return net.eval().requires_grad_(False)


@functools.cache
def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of the 256 bytes, with and without the end of a word, and no merges."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


@functools.cache
def clip_encoder(hidden_size: int = 32, projection_dim: int | None = None, hidden_act: str = "gelu") -> Any:
    """A CLIP text encoder of `hidden_size`; with a projection head when `projection_dim` is given."""
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=hidden_size,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=projection_dim or hidden_size,
        hidden_act=hidden_act,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return module(CLIPTextModel if projection_dim is None else CLIPTextModelWithProjection, config)


@functools.cache
def t5_tokenizer() -> T5TokenizerFast:
    """A T5 tokenizer whose pieces are the printable characters."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_letters, *string.digits, *string.punctuation]
    return T5TokenizerFast(vocab=[(piece, 0.0 if i < 3 else -1.0) for i, piece in enumerate(pieces)], extra_ids=0)


@functools.cache
def t5_encoder(d_model: int = 32) -> T5EncoderModel:
    """A T5 encoder of width `d_model`."""
    config = T5Config(vocab_size=128, d_model=d_model, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return module(T5EncoderModel, config)


def embeds(k: int, *shape: int) -> torch.Tensor:
    """Seeded stand-in for an encoded prompt, shape `shape`, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + k))


def picture(k: int, size: int = 32) -> Image.Image:
    """A seeded colourful picture, `size` x `size`."""
    pixels = torch.randint(0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(k), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((size, size), Image.Resampling.BICUBIC)
