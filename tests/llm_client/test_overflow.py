from __future__ import annotations

import pytest

from pibot.llm_client.overflow import Overflow, read_overflow

REFUSALS = [
    # OpenAI
    (
        400,
        "This model's maximum context length is 16385 tokens. However, your messages resulted in 20011 tokens (18000 "
        "in the messages, 2011 in the functions). Please reduce the length of the messages or functions.",
        Overflow(16385, 20011),
    ),
    (
        400,
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens (8000 in your prompt; "
        "1000 for the completion). Please reduce your prompt; or completion length.",
        Overflow(8192, 9000),
    ),
    (
        400,
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        Overflow(),
    ),
    (400, "Please reduce the length of the messages or completion.", Overflow()),
    (
        429,
        "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 41234. The "
        "input or output tokens must be reduced in order to run successfully.",
        Overflow(30000, 41234),
    ),
    (
        413,
        "Request too large for model `llama-3.1-8b-instant` in organization `org_1` service tier `on_demand` on tokens "
        "per minute (TPM): Limit 6000, Requested 8124, please reduce your message size and try again.",
        Overflow(6000, 8124),
    ),
    # OpenRouter
    (
        400,
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 150123 tokens (149000 "
        "of text input, 1123 in the output). Please reduce the length of either one.",
        Overflow(131072, 150123),
    ),
    # vLLM, SGLang
    (
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9100 tokens in the messages, "
        "Please reduce the length of the messages.",
        Overflow(8192, 9100),
    ),
    (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 8192 "
        "tokens and your request has 6100 input tokens (4096 > 8192 - 6100).",
        Overflow(8192, 6100),
    ),
    (400, "Input length (9001) exceeds model's maximum context length (8192).", Overflow(8192, 9001)),
    (
        400,
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure",
        Overflow(8192, 9000),
    ),
    (400, "The input (40000 tokens) is longer than the model's context length (32768 tokens).", Overflow(32768, 40000)),
    # llama.cpp and its Python package
    (
        400,
        "request (5012 tokens) exceeds the available context size (4096 tokens), try increasing it",
        Overflow(4096, 5012),
    ),
    (500, "the request exceeds the available context size (n_ctx). try increasing the context size", Overflow()),
    (400, "Requested tokens (3011) exceed context window of 2048", Overflow(2048, 3011)),
    # LiteLLM, in front of any other
    (
        400,
        "litellm.ContextWindowExceededError: litellm.BadRequestError: it does not fit\nmodel=small. fallbacks=None.",
        Overflow(),
    ),
    # LM Studio
    (
        400,
        "Trying to keep the first 5120 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough.",
        Overflow(4096, 5120),
    ),
    (400, "Cannot truncate prompt with n_keep (5120) >= n_ctx (4096)", Overflow(4096, 5120)),
    (
        400,
        "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the "
        "model with a larger context length, or provide a shorter input",
        Overflow(),
    ),
    (200, "Context size has been exceeded.", Overflow()),
    # Ollama
    (400, "prompt too long; exceeded max context length by 120 tokens", Overflow()),
    (500, "the input length exceeds the context length", Overflow()),
    # TGI
    (422, "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", Overflow(4096, 5000)),
    (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` tokens",
        Overflow(4097, 5000),
    ),
    # Anthropic
    (400, "prompt is too long: 210000 tokens > 200000 maximum", Overflow(200000, 210000)),
    (
        400,
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
        Overflow(200000, 190000),
    ),
    (413, "Request exceeds the maximum size", Overflow()),
    # Gemini
    (
        400,
        "The input token count (1200345) exceeds the maximum number of tokens allowed (1048576).",
        Overflow(1048576, 1200345),
    ),
    (
        400,
        "Unable to submit request because the input token count is 40000 but model only supports up to 32768. Reduce",
        Overflow(32768, 40000),
    ),
    (400, "The input token count exceeds the maximum number of tokens allowed 1048576.", Overflow(1048576)),
    # Mistral
    (
        400,
        "Prompt contains 40211 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        Overflow(32768, 40211),
    ),
    (400, "Too many tokens in prompt: 33000 > 32768", Overflow(32768, 33000)),
    # DashScope, Ark, Moonshot, Zhipu, MiniMax, SiliconFlow
    (400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", Overflow(30720)),
    (400, "Input length 300000 exceeds the maximum length 229376. Request id: 02176", Overflow(229376, 300000)),
    (400, "Total tokens of image and text exceed max message tokens. Request id: 02176", Overflow()),
    (400, "Invalid request: Your request exceeded model token limit: 8192 (requested: 9123)", Overflow(8192, 9123)),
    (400, "Prompt exceeds max length", Overflow()),
    (400, "Prompt 超长", Overflow()),
    (400, "输入长度超过模型最大限制", Overflow()),
    (400, "invalid params, context window exceeds limit (2013)", Overflow()),
    (400, "length of prompt_tokens (33000) must be less than max_seq_len (32768).", Overflow(32768, 33000)),
    # xAI, Cohere, Bedrock, Cerebras, GitHub
    (
        400,
        "This model's maximum prompt length is 131072 but the request contains 150011 tokens.",
        Overflow(131072, 150011),
    ),
    (
        400,
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5011. Try using a shorter",
        Overflow(4081, 5011),
    ),
    (400, "Input is too long for requested model.", Overflow()),
    (
        400,
        "Please reduce the length of the messages or completion. Current length is 9001 while limit is 8192",
        Overflow(8192, 9001),
    ),
    (400, "prompt token count of 130000 exceeds the limit of 128000", Overflow(128000, 130000)),
    (413, "Request body too large for gpt-4o model. Max size: 8000 tokens.", Overflow(8000)),
]


@pytest.mark.parametrize(("status", "message", "overflow"), REFUSALS)
def test_a_refusal_for_the_prompts_length_is_read_with_its_numbers(
    status: int, message: str, overflow: Overflow
) -> None:
    assert read_overflow(status, message) == overflow


@pytest.mark.parametrize("code", ["context_length_exceeded", "exceed_context_size_error"])
def test_a_code_alone_says_it_too(code: str) -> None:
    assert read_overflow(400, "Bad request", code) == Overflow()
    assert read_overflow(500, "Bad request", code) is None


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000."),
        (429, "You exceeded your current quota, please check your plan and billing details."),
        (400, "Invalid 'messages[2].tool_call_id': string too long. Expected a string with maximum length 40."),
        (400, "Invalid 'tools[0].function.description': string too long. Expected maximum length 1024"),
        (400, "Invalid 'tools': array too long. Expected an array with maximum length 128, but got 200."),
        (400, "'temperature' is too large"),
        (401, "prompt is too long: 210000 tokens > 200000 maximum"),
        (400, "tool names must not be longer than 64 characters"),
        (503, "The server is overloaded"),
    ],
)
def test_another_refusal_is_none(status: int, message: str) -> None:
    assert read_overflow(status, message) is None
