"""How many examples a property test draws."""

from __future__ import annotations

import os

REPEATED = os.environ.get("PIBOT_TEST_REPEATED") == "1"
"""Set by scripts/test.sh on each Python but its own, where the same tests have run with all their examples."""


def examples(number: int) -> int:
    """Return ``number``, or a fifth of it on a Python that repeats the tests to show its own differences."""
    return max(number // 5, 5) if REPEATED else number
