"""Make a language model of 30,000 random numbers, in the GGUF format that llama.cpp reads.

What it says is nonsense, but any server that loads it must treat it as a model: count its tokens, keep to its window,
stop at its limit. See https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for the format.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Union

WIDTH = 32
"""Numbers in an embedding."""

HEADS = 2
ALIGNMENT = 32
MAGIC, VERSION, NORMAL_FLOAT = b"GGUF", 3, 0

_INTEGER, _FLOAT, _STRING, _ARRAY, _SIGNED = 4, 6, 8, 9, 5
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1
"""Kinds of values, and kinds of tokens, as the format numbers them."""

TEMPLATE = (
    "{% if tools %}[tools] {% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content or '' }}"
    '{% for call in m.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""How a conversation becomes a prompt: messages, tools and tool calls, much as the templates of real models do it."""

Value = Union[int, float, str, list[Any]]


def write_tiny_model(path: Path, *, window: int) -> None:
    """Write the model. Each character of a prompt is a token.

    Args:
        window: how many tokens it was trained with, so to say.
    """
    tokens, kinds = _vocabulary()
    about: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.context_length": window,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    tensors = _tensors(tokens, kinds)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(about))
    head += b"".join(_string(name) + _value(value) for name, value in about.items())
    data = b""
    for name, (rows, numbers) in tensors.items():
        shape = (len(numbers) // rows, rows) if rows > 1 else (len(numbers),)
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, NORMAL_FLOAT, len(data))
        data += _aligned(numbers.tobytes())
    path.write_bytes(_aligned(head) + data)


def _vocabulary() -> tuple[list[str], list[int]]:
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    letters = ["\u2581", *map(chr, range(33, 127))]  # the first one stands for a space
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *letters]
    return tokens, [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * len(bytes_), *[_NORMAL] * len(letters)]


def _tensors(tokens: list[str], kinds: list[int]) -> dict[str, tuple[int, array[float]]]:
    """Return the rows and the numbers of each tensor.

    The first number of every embedding is large, and no layer changes it, so that the first column of the output's
    tensor is a bias: the model says letters and spaces, and no bytes that are no text.
    """
    rng = random.Random(1)

    def numbers(rows: int, first: Callable[[int], float] | None = None) -> tuple[int, array[float]]:
        table = [[rng.gauss(0, 0.4) for _ in range(WIDTH)] for _ in range(rows)]
        for row, line in enumerate(table):
            line[0] = line[0] if first is None else first(row)
        return rows, array("f", chain.from_iterable(table))

    def without_first_row() -> tuple[int, array[float]]:
        rows, made = numbers(WIDTH)
        made[:WIDTH] = array("f", [0.0] * WIDTH)
        return rows, made

    def bias(row: int) -> float:
        if kinds[row] != _NORMAL:
            return 1.0 if tokens[row] == "</s>" else -9.0
        return 2.0 if tokens[row].isalpha() or tokens[row] == "\u2581" else 0.0

    ones = 1, array("f", [1.0] * WIDTH)
    return {
        "token_embd.weight": numbers(len(tokens), lambda _: 6.0),
        "output_norm.weight": ones,
        "output.weight": numbers(len(tokens), bias),
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": numbers(WIDTH),
        "blk.0.attn_k.weight": numbers(WIDTH),
        "blk.0.attn_v.weight": numbers(WIDTH),
        "blk.0.attn_output.weight": without_first_row(),
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": numbers(WIDTH),
        "blk.0.ffn_up.weight": numbers(WIDTH),
        "blk.0.ffn_down.weight": without_first_row(),
    }


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, int):
        return struct.pack("<II", _INTEGER, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    kind, form = {str: (_STRING, ""), float: (_FLOAT, "f"), int: (_SIGNED, "i")}[type(value[0])]
    head = struct.pack("<IIQ", _ARRAY, kind, len(value))
    return head + (struct.pack(f"<{len(value)}{form}", *value) if form else b"".join(map(_string, value)))


def _aligned(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)
