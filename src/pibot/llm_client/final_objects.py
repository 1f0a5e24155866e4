"""Find the JSON object of a final answer in a model's text."""

from __future__ import annotations

from pibot.jsontext import extract_json_object

FINAL_KEYS = frozenset({"success", "data", "output"})
"""Keys of the final JSON that ``worker_soul.md`` asks for; an object with one of them is the final answer."""

_ERROR_KEYS = frozenset({"error", "message", "details"})
"""Keys of an object that says an error and nothing else."""


def final_object(text: str) -> dict[str, object] | None:
    """Return the JSON object of a final answer; None where the text holds none."""
    if "<" in text:
        from pibot.llm_client.thinking import for_json

        text = for_json(text)
    found = extract_json_object(text, keys=FINAL_KEYS)
    if found is None:
        return None
    alone = text.strip().startswith(("{", "```")) and text.strip().endswith(("}", "```"))
    if alone and len(found) == 1:
        [inner] = found.values()
        if isinstance(inner, dict) and {"success", "output"} <= inner.keys():
            return inner
    if alone and found.get("error") and found.keys() <= _ERROR_KEYS:
        return found
    if not FINAL_KEYS & found.keys():
        return None
    behind = text[text.rfind("}") + 1 :].strip("`\n ")
    return None if behind and not found.keys() & {"output", "error"} else found  # prose that shows some other JSON
