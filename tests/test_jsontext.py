"""The JSON object in a model's answer is found, whatever text is around it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.jsontext import extract_json_object

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n\n```json\n{"a": {"b": [1, {}]}}\n```\nHope that helps.', {"a": {"b": [1, {}]}}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('{"a": "a } and a { and a \\" too"}', {"a": 'a } and a { and a " too'}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('a set {1, 2} and then {"a": 1}', {"a": 1}),
        ('{oops {"a": 1}', {"a": 1}),
        ('{"a": 1} or rather {"a": 2}', {"a": 2}),
        ('{"a": 1}, where {} means nothing', {"a": 1}),
        ("nothing but {}", {}),
        ('{"a": NaN, "b": 1e999, "c": -Infinity}', {"a": None, "b": None, "c": None}),
        ("no object", None),
        ("", None),
        ("[1, 2]", None),
        ("{", None),
        ("}{", None),
        ('{"a": "never closed', None),
    ],
)
def test_the_object_is_found_in_the_text_around_it(text: str, expected: dict[str, Any] | None) -> None:
    assert extract_json_object(text) == expected


def test_an_object_inside_one_that_is_cut_off_is_not_returned() -> None:
    assert extract_json_object('{"subtasks": [{"task_id": "one"}, {"task_id": "two"}') is None


def test_an_object_with_a_wanted_key_wins_over_a_later_one_without() -> None:
    text = '{"success": true} An example of a record: {"name": "x"}'
    assert extract_json_object(text, keys=("success", "output")) == {"success": True}
    assert extract_json_object(text) == {"name": "x"}
    assert extract_json_object('{"name": "x"}', keys=("success",)) == {"name": "x"}


@given(
    value=st.dictionaries(st.text(), json_values, min_size=1, max_size=4),
    before=st.text(st.characters(exclude_characters="{}")),
    after=st.text(st.characters(exclude_characters="{}")),
    indent=st.sampled_from([None, 2]),
)
def test_any_object_survives_any_prose_around_it(
    value: dict[str, Any], before: str, after: str, indent: int | None
) -> None:
    assert extract_json_object(f"{before}{json.dumps(value, indent=indent)}{after}") == value


@given(st.text(alphabet='{}[]":,\\ a1\n'))
def test_no_text_raises(text: str) -> None:
    found = extract_json_object(text)
    assert found is None or isinstance(found, dict)


@pytest.mark.parametrize(
    "piece", ["{", '{"a":', '{"', '{"a":"', '{"\\"', '{"a":{"b":1},', '{"a":[', "{}", '{"a":1}', '{"a":"\\', "{{}"]
)
def test_a_long_hostile_text_is_searched_quickly(piece: str) -> None:
    """A quadratic search of these 2 MB would take minutes, and the test's timeout would end it."""
    found = extract_json_object(piece * (2_000_000 // len(piece)))
    assert found is None or found in ({}, {"a": 1}, {"b": 1})


def test_an_object_behind_many_broken_ones_is_found() -> None:
    assert extract_json_object("{broken " * 900 + '{"a": 1}') == {"a": 1}


def test_numbers_of_thousands_of_digits_and_deep_nesting_end_the_search_quietly() -> None:
    assert extract_json_object('{"a": 1} ' + '{"b":' * 100_000) == {"a": 1}
    assert extract_json_object('{"a": 1} {"b": ' + "9" * 5_000 + "}") == {"a": 1}


def test_half_an_escaped_emoji_is_replaced_since_it_can_not_be_stored_or_sent() -> None:
    found = extract_json_object(r'{"output": "half \ud83d", "data": {"\udfff": ["whole \ud83d\ude00"]}}')

    assert found == {"output": "half ?", "data": {"?": ["whole \N{GRINNING FACE}"]}}
