"""A command prepares its folder before the worker, which is not confined, writes a long output into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pibot.tool_registry.kept_outputs import FOLDER, KeptOutputs

LINKS = {
    "the folder is a link": (FOLDER, "{outside}"),
    "the file is a link": (f"{FOLDER}/1-long.txt", "{outside}/1-long.txt"),
}


@pytest.mark.parametrize(("place", "target"), LINKS.values(), ids=list(LINKS))
def test_a_link_in_the_way_of_a_kept_output_leads_nowhere(tmp_path: Path, place: str, target: str) -> None:
    workspace, outside = tmp_path / "task", tmp_path / "outside"
    outside.mkdir()
    victim = outside / "1-long.txt"
    victim.write_text("the owner's")
    link = workspace / place
    link.parent.mkdir(parents=True)
    link.symlink_to(target.format(outside=outside))

    assert KeptOutputs(workspace).keep("long", "overwritten") is None
    assert victim.read_text() == "the owner's"
    (workspace / FOLDER / "1-long.txt").write_text("overwritten")  # a worker that simply writes
    assert victim.read_text() == "overwritten"
