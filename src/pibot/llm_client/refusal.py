"""Tell whether a provider refused the form of a request. What it wants instead, :mod:`pibot.llm_client.mends` finds."""

from __future__ import annotations

from pibot.errors import LLMProtocolError
from pibot.llm_client import wire
from pibot.llm_client.backend import HttpAnswer


def is_refusal(answer: HttpAnswer) -> bool:
    """Return whether a request may be accepted in another form."""
    if answer.should_retry == "false":
        return False  # the fleet's own hub has tried
    if answer.success:
        error = error_of(answer)
        return error is not None and error.code in ("400", "422")
    return answer.status in (400, 404, 405, 422, 500)


def error_of(answer: HttpAnswer) -> wire.ErrorObject | None:
    """Return the error in an answer's body, if there is one."""
    try:
        return wire.find_error(answer.data, success=answer.success)
    except LLMProtocolError:
        return None
