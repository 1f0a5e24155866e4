from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional, Union

from pibot.contracts import ToolContext, ToolSpec
from pibot.tool_registry.signature import read_signature
from tests.tool_registry.support import ECHO, one


def test_a_tools_spec_comes_from_its_signature_and_docstring(tmp_path: Path, context: ToolContext) -> None:
    (spec,) = one(tmp_path, context, ECHO).specs
    assert spec == ToolSpec(
        "echo",
        "Say it again.",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "what to say."},
                "times": {"type": "integer", "description": "how often.", "default": 1},
            },
            "additionalProperties": False,
            "required": ["text"],
        },
    )


def test_every_supported_type_has_its_schema() -> None:
    def tool(
        a: str,
        b: float,
        c: bool,
        d: list[int],
        e: dict[str, float],
        f: Optional[str],
        g: Literal["x", "y"],
        h: Union[int, str],
        i: list,  # type: ignore[type-arg]  # the bare form is allowed
        j: Optional[list[str]] = None,
        k: Any = None,
    ) -> None:
        """Takes all."""

    parameters = read_signature(tool).parameters
    assert parameters["properties"] == {
        "a": {"type": "string"},
        "b": {"type": "number"},
        "c": {"type": "boolean"},
        "d": {"type": "array", "items": {"type": "integer"}},
        "e": {"type": "object", "additionalProperties": {"type": "number"}},
        "f": {"type": "string"},
        "g": {"type": "string", "enum": ["x", "y"]},
        "h": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "i": {"type": "array"},
        "j": {"type": "array", "items": {"type": "string"}},
        "k": {},
    }
    assert parameters["required"] == ["a", "b", "c", "d", "e", "g", "h", "i"]


def test_an_arguments_description_may_span_lines_and_paragraphs_are_kept() -> None:
    def tool(path: str, limit: int = 5) -> str:
        """Read a file.

        Large ones come in windows.

        Args:
            path: where it is,
                such as: notes.txt
            limit: lines.

        Returns:
            str: the text.

        Raises:
            ToolError: no such file.
        """
        return path

    signature = read_signature(tool)
    assert signature.description == "Read a file.\n\nLarge ones come in windows."
    assert {n: s["description"] for n, s in signature.parameters["properties"].items()} == {
        "path": "where it is, such as: notes.txt",
        "limit": "lines.",
    }
