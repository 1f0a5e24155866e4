"""Numbers of JSON are read in bounded time."""

from __future__ import annotations

import json
import sys

import pytest

from pibot.contracts import bounded_int
from pibot.contracts.basics import MAX_DIGITS


@pytest.mark.parametrize("number", [0, -1, 2**63, -(10 ** (MAX_DIGITS - 2))])
def test_a_number_is_read_as_json_reads_it(number: int) -> None:
    assert json.loads(f'{{"a": {number}}}', parse_int=bounded_int) == {"a": number}


def test_a_number_with_too_many_digits_is_refused_before_it_is_parsed() -> None:
    # A million digits took a minute before Python 3.9.14.
    with pytest.raises(ValueError, match="a number has 1001 digits, 1000 are allowed"):
        json.loads("9" * 1001, parse_int=bounded_int)
    assert not hasattr(sys, "get_int_max_str_digits") or json.loads("9" * 1001) > 0  # it does parse without the bound
