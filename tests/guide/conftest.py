from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guide.nodes import Nodes, nodes

collect_ignore = ["scripts"]


@pytest.fixture(scope="session")
def guides_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes(tmp_path_factory.mktemp("nodes")) as running:
        yield running
