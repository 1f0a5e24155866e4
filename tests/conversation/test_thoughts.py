from __future__ import annotations

from pibot.contracts.reading import CUT_MARK
from pibot.contracts.tasks import MAX_REASONING_CHARS
from pibot.conversation.thoughts import Thoughts


def test_each_model_calls_reasoning_has_a_heading_and_empty_ones_are_left_out() -> None:
    thoughts = Thoughts(wanted=True)
    for call, reasoning in enumerate(("first\n", " \n", "third"), 1):
        thoughts.add(call, reasoning)
    assert thoughts.text == "[model call 1]\nfirst\n\n[model call 3]\nthird"


def test_the_newest_reasoning_is_kept_with_one_mark_where_more_was_cut() -> None:
    thoughts = Thoughts(wanted=True)
    for call in range(1, 31):
        thoughts.add(call, f"{call} " * 400)
    assert len(thoughts.text) == MAX_REASONING_CHARS
    assert thoughts.text.startswith(CUT_MARK)
    assert thoughts.text.count(CUT_MARK.strip()) == 1
    assert "[model call 30]\n30 30" in thoughts.text
    assert "[model call 1]" not in thoughts.text


def test_nothing_is_kept_where_the_owner_does_not_want_it() -> None:
    thoughts = Thoughts(wanted=False)
    thoughts.add(1, "first")
    assert thoughts.text == ""
