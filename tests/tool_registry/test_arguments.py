from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Optional, Union

import pytest

from pibot.tool_registry.arguments import Misfit, fit_arguments
from pibot.tool_registry.signature import read_signature


def shapes(
    text: str = "",
    count: int = 0,
    ratio: float = 0.0,
    flag: bool = False,
    words: list[str] = [],  # noqa: B006  # never called
    table: Optional[dict[str, int]] = None,
    mode: Literal["fast", "slow"] = "fast",
    either: Union[int, str] = 0,
) -> None:
    """Takes shapes."""


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({"count": "5"}, {"count": 5}),
        ({"count": 5.0}, {"count": 5}),
        ({"count": " -3 "}, {"count": -3}),
        ({"ratio": "2.5"}, {"ratio": 2.5}),
        ({"ratio": 2}, {"ratio": 2}),
        ({"flag": "True"}, {"flag": True}),
        ({"flag": False}, {"flag": False}),
        ({"text": 5}, {"text": "5"}),
        ({"words": ["a"]}, {"words": ["a"]}),
        ({"words": '["a", "b"]'}, {"words": ["a", "b"]}),
        ({"words": "a"}, {"words": ["a"]}),
        ({"table": '{"a": "1"}'}, {"table": {"a": 1}}),
        ({"table": None}, {}),
        ({"count": None}, {}),
        ({"mode": "SLOW"}, {"mode": "slow"}),
        ({"either": "007"}, {"either": "007"}),
        ({"either": 7}, {"either": 7}),
    ],
)
def test_an_argument_with_one_sensible_reading_is_converted(
    given: Mapping[str, Any], fitted: Mapping[str, Any]
) -> None:
    result = fit_arguments(read_signature(shapes), given)
    assert result == fitted
    assert [type(v) for v in result.values()] == [type(v) for v in fitted.values()]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "five"}, """argument 'count' must be a whole number, not "five\""""),
        ({"count": 5.5}, "argument 'count' must be a whole number, not 5.5"),
        ({"count": True}, "argument 'count' must be a whole number, not true"),
        ({"ratio": "nan"}, "must be a number"),
        ({"flag": "yes"}, "must be true or false"),
        ({"flag": 1}, "must be true or false"),
        ({"text": ["a"]}, "must be a text"),
        ({"words": ["a", {}]}, "argument 'words' has item 2, which must be a text, not {}"),
        ({"table": {"a": "x"}}, """argument 'table' has "a", which must be a whole number"""),
        ({"table": "[1]"}, "must be an object whose values are each a whole number"),
        ({"mode": "medium"}, 'argument \'mode\' must be one of "fast", "slow", not "medium"'),
        ({"either": []}, "must be a whole number or a text"),
        ({"colour": 1}, 'there is no argument "colour" (the arguments are: text, count'),
        ({"text": {"x": "y" * 500}}, "y…"),
    ],
)
def test_the_error_of_a_wrong_argument_says_what_is_expected(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(Misfit) as caught:
        fit_arguments(read_signature(shapes), given)
    assert said in str(caught.value)
