from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guide.fleet import Fleet, fleet

collect_ignore = ["scripts"]


@pytest.fixture(scope="session")
def guides_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running
