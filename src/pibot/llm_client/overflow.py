"""Recognise a server's refusal of a prompt that is longer than the model's window, and read the numbers in it.

The sentences are those of OpenAI, OpenRouter, vLLM, SGLang, llama.cpp, LM Studio, Ollama, TGI, Anthropic, Gemini,
Mistral, DashScope, Ark, Moonshot, Zhipu, MiniMax, SiliconFlow, Groq, xAI, Cohere, Bedrock, GitHub and LiteLLM, from
their documentation and from public threads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_READ_CHARS = 4_000
"""Characters of a refusal that are read."""

SMALLEST_WINDOW, LARGEST_WINDOW = 256, 100_000_000
"""Bounds of a window in tokens; a number outside them is something else."""

_STATUSES = frozenset({400, 413, 422, 429, 500, 503})
"""Statuses under which servers say it; with the last three only a sentence counts, no code."""

_CODES = frozenset(
    {
        "context_length_exceeded",
        "context_window_exceeded",
        "exceed_context_size_error",
        "model_max_prompt_tokens_exceeded",
        "tokens_limit_reached",
        "contextwindowexceedederror",
    }
)

_N = r"(?:about |approximately )?(\d[\d,_]{2,11})"

_EXCEEDS = r"(?:reached|exceeds?|exceeded|exceeding|larger than|longer than)"
_SIZE = r"(?:length|window|size)"

# Each with the number that is the window, and the one that is the prompt; 0 for neither.
_SENTENCES: tuple[tuple[re.Pattern[str], int, int], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), window, sent)
    for pattern, window, sent in (
        # "(4000 in your prompt; 1000 for the completion)" counts an answer too: the prompt alone is not known there.
        (rf"maximum context length (?:is|of) {_N} tokens?.{{0,120}}(?:messages resulted in|request has) {_N}", 1, 2),
        (rf"maximum context length (?:is|of) {_N}.{{0,80}}requested {_N}", 1, 2),
        (rf"input length \({_N}\) exceeds (?:the )?model'?s? maximum (?:context )?length \({_N}", 2, 1),
        (rf"prompt \(length {_N}\) is longer than the maximum model length of {_N}", 2, 1),
        (rf"input \({_N} tokens\) is longer than the model'?s context length \({_N}", 2, 1),
        (rf"maximum (?:context|prompt|sequence) length (?:is |of )?{_N}(?:.{{0,80}}contains {_N})?", 1, 2),
        (rf"{_N}(?: and \d+ draft)? tokens.{{0,40}}too large for model with {_N}", 2, 1),
        (rf"prompt is too long: {_N} tokens > {_N}", 2, 1),
        (rf"too many tokens in prompt:? {_N} > {_N}", 2, 1),
        (rf"exceeds? (?:the )?context limit: {_N} \+ [\d,]+ > {_N}", 2, 1),
        (rf"input token count \(?(?:is )?{_N}\)?.{{0,40}}(?:tokens allowed \(|only supports up to ){_N}", 2, 1),
        (rf"input token count.{{0,40}}exceeds the maximum number of tokens(?: allowed {_N})?", 1, 0),
        (rf"request(?: \({_N} tokens\))? exceeds the available context size(?: \({_N})?", 2, 1),
        (rf"requested tokens \({_N}\) exceed context window of {_N}", 2, 1),
        (rf"n_keep \({_N}\) >= n_ctx \({_N}", 2, 1),
        (rf"keep the first {_N} tokens.{{0,120}}context length of (?:only )?{_N}", 2, 1),
        (
            rf"{_EXCEEDS}(?: the| its| max| maximum| model'?s?){{0,3}} (?:context|input) {_SIZE}(?: (?:of|is) {_N})?",
            1,
            0,
        ),
        (rf"context {_SIZE}.{{0,60}}(?:been exceeded|is exceeded|exceeds limit)", 0, 0),
        (r"number of tokens to keep.{0,60}context length", 0, 0),
        (rf"exceeded model token limit:? {_N}(?: \(requested:? {_N})?", 1, 2),
        (rf"range of input length should be \[\d+, ?{_N}\]", 1, 0),
        (rf"input (?:token )?length(?: is)? {_N},? (?:tokens )?(?:exceeds?|is too long|is larger).{{0,60}}?{_N}", 2, 1),
        (r"exceed(?:s|ed)? max(?:imum)? (?:message|input|prompt|context|sequence) (?:tokens?|length|size)", 0, 0),
        (
            r"(?:input|prompt|message)s? (?:token )?(?:length )?(?:is |are )?too long(?! for (?:the )?(?:name|field))",
            0,
            0,
        ),
        (rf"length of prompt_tokens \({_N}\) must be less than max_seq_len \({_N}", 2, 1),
        (rf"`?inputs`? must have less than {_N} tokens\. given:? {_N}", 1, 2),
        (rf"`?inputs`? tokens \+ `?max_new_tokens`? must be <= {_N}(?:\. given:? {_N})?", 1, 2),
        (rf"prompt token count of {_N} exceeds the limit of {_N}", 2, 1),
        (rf"tokens in the prompt cannot exceed {_N}(?:.{{0,20}}received {_N})?", 1, 2),
        (rf"current length is {_N} while limit is {_N}", 2, 1),
        (rf"request too large for .{{0,200}}limit:? {_N}, requested:? {_N}", 1, 2),
        (rf"request (?:body )?too large for .{{0,80}}max size: {_N} tokens", 1, 0),
        (r"reduce the length of the (?:messages|prompt|input)|exceeds the context window", 0, 0),
        (r"prompt (?:length )?exceeds max(?:imum)? length", 0, 0),
        (r"\bContextWindowExceededError\b", 0, 0),  # LiteLLM's: any provider's refusal, after this name
        (r"(?:输入|上下文|提示词?|prompt|消息).{0,12}(?:超长|过长|超过|超出).{0,12}(?:限制|长度|上限|最大)?", 0, 0),
    )
)

_OF_RATES = re.compile(r"(?i)rate.?limit reached|exceeded your current quota|try again in|, used:? ?\d")
_OF_OTHER_FIELDS = re.compile(r"(?i)\btool_call_id\b|\btools?\[|\bfunction\.(?:name|description)|\bmodel name\b")


@dataclass(frozen=True)
class Overflow:
    """A server's refusal of a prompt for its length.

    Args:
        window: the model's window in tokens, if the server named it.
        sent: the prompt's tokens as the server counted them, if it named them.
    """

    window: int | None = None
    sent: int | None = None


def read_overflow(status: int, message: str, *codes: str) -> Overflow | None:
    """Return what a refusal says about the prompt's length; None if it is about something else.

    Args:
        status: the HTTP status, or the one that an error under HTTP 200 names.
        message: the server's sentence.
        codes: the error's ``code`` and ``type``.
    """
    if status not in _STATUSES and not 200 <= status < 300:
        return None
    message = message[:MAX_READ_CHARS]
    if _OF_RATES.search(message) or _OF_OTHER_FIELDS.search(message):
        return None
    for pattern, window, sent in _SENTENCES:
        found = pattern.search(message)
        if found is not None:
            return Overflow(_number(found, window), _number(found, sent))
    known = status in (400, 413, 422) and any(code.lower() in _CODES for code in codes)
    return Overflow() if known or status == 413 else None


def _number(found: re.Match[str], group: int) -> int | None:
    text = found[group] if group and group <= found.re.groups else None
    value = int(re.sub(r"[,_]", "", text)) if text else 0
    return value if SMALLEST_WINDOW <= value <= LARGEST_WINDOW else None
