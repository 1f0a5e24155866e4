"""The outcomes of the rules: of a tool's answer, or without a tool."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from typing import Any, Callable, Optional, Union

from pibot.rehearsal.calls import TEST_FILE, place, seconds, unquoted
from pibot.rehearsal.outcome import WHO, Outcome, Situation, first_line, json_object

Number = Union[int, float]

_EXIT_CODE = re.compile(r"exit code: (-?\d+)(?:\n|\Z)")
_NUMBER = re.compile(r"[^=\n]* = (-?\d+(?:\.\d+)?)\s*\Z|(\d+) (?:files|entries|lines|words|characters) in ")
_REMEMBER = re.compile(r"\bremember\s+(?:this|that)\b\s*:?\s*(.+)", re.IGNORECASE)


# --- shell_exec -------------------------------------------------------------


def ran(_: Situation, answer: str) -> Outcome:
    return _command(answer)


def slept(s: Situation, answer: str) -> Outcome:
    n = f"{seconds(s):g}"
    return _command(answer, lambda _: Outcome(True, f"Slept for {n} seconds", {"seconds": seconds(s)}))


def shell_listed(s: Situation, answer: str) -> Outcome:
    def listing(text: str) -> Outcome:
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("total ")]
        names = [line for line in lines if not re.search(r"\s\.\.?$", line)]
        head = "" if text.startswith(place(s)) else f"{len(names)} entries in {place(s)}:\n"
        return Outcome(True, f"{head}{text}".rstrip(), {"listing": text, "value": len(names)})

    return _command(answer, listing)


def shell_wrote(s: Situation, answer: str) -> Outcome:
    name = unquoted(s.groups.get("file", TEST_FILE))
    return _command(answer, lambda _: Outcome(True, f"Wrote {name}", {"file": name}))


def shell_counted(s: Situation, answer: str) -> Outcome:
    def count(text: str) -> Outcome:
        words = text.split()
        if not words or not words[-1].isdigit():
            return Outcome(False, f"The command printed no number: {first_line(text)}")
        return _count(s, int(words[-1]))

    return _command(answer, count)


def _command(answer: str, done: Callable[[str], Outcome] | None = None) -> Outcome:
    """Return a command's outcome; ``done`` makes it from the output if the command succeeded."""
    code, text = read_command(answer)
    if code != 0:
        return Outcome(False, f"The command failed (exit code {code}): {text}".rstrip(": "), {"exit_code": code})
    if done is not None:
        return done(text)
    return Outcome(True, text or "The command succeeded without any output.", {"exit_code": 0, "text": text})


def read_command(answer: str) -> tuple[Optional[int], str]:
    """Return the exit code and the output of a ``shell_exec`` answer; no code if the answer has another form."""
    match = _EXIT_CODE.match(answer)
    if match is None:
        return None, answer.strip()
    text = answer[match.end() :].strip()
    return int(match.group(1)), "" if text == "(no output)" else text


# --- file_ops ---------------------------------------------------------------


def listed(s: Situation, answer: str) -> Outcome:
    names = [line for line in answer.splitlines() if line.strip() and not line.startswith(("(", "["))]
    return Outcome(
        True, f"{len(names)} entries in {place(s)}:\n{answer}".rstrip(), {"listing": answer, "value": len(names)}
    )


def wrote(s: Situation, answer: str) -> Outcome:
    said = first_line(answer)
    return Outcome(True, said[:1].upper() + said[1:], {"file": unquoted(s.groups.get("file", TEST_FILE))})


def read(_: Situation, answer: str) -> Outcome:
    return Outcome(True, answer.strip() or "It is empty", {"text": answer})


def counted(s: Situation, answer: str) -> Outcome:
    what = s.groups["what"].lower()
    if what in ("files", "entries"):
        return Outcome(False, "Counting the files of a folder needs the skill shell_exec")
    return _count(s, {"lines": len(answer.splitlines()), "words": len(answer.split())}.get(what, len(answer)))


def _count(s: Situation, number: int) -> Outcome:
    what = s.groups["what"].lower()
    return Outcome(True, f"{number} {what} in {place(s)}", {"value": number})


# --- web_fetch, system_info -------------------------------------------------


def fetched(s: Situation, answer: str) -> Outcome:
    head, _, body = answer.partition("\n\n")
    page = dict(line.partition(": ")[::2] for line in head.splitlines())
    if "url" not in page or "status" not in page:
        return Outcome(False, f"This model does not know this form of web_fetch's answer: {first_line(answer)}")
    url, title = page["url"], page.get("title", "")
    title = "" if title == "(none)" else title
    data: dict[str, Any] = {"url": url, "status": page["status"], "title": title}
    what = s.groups.get("what", "").lower()
    if what == "title":
        return Outcome(bool(title), f"The title of {url} is: {title}" if title else f"{url} has no title", data)
    if what == "status":
        return Outcome(True, f"{url} answered with {page['status']}", data)
    if what.startswith("link"):
        listed = body.rpartition("Links:\n")[2]
        links = [line for line in listed.splitlines() if line.startswith("- ")]
        return Outcome(True, "\n".join([f"{len(links)} links on {url}:", *links]), {**data, "links": links})
    if what in ("text", "content"):
        return Outcome(True, body, {**data, "text": body})
    named = f" ({title})" if title else ""
    return Outcome(True, f"Fetched {url}{named}, {len(body)} characters of text", {**data, "text": body})


_TOPICS: tuple[tuple[str, str], ...] = (
    ("temperature", r"temperature|hot"),
    ("power", r"throttling|under-?voltage|power|health"),
    ("memory", r"memory|ram\b"),
    ("swap", r"swap|memory"),
    ("disk", r"disk|storage|space"),
    ("load", r"load|cpu|processor|busy"),
    ("uptime", r"uptime"),
    ("machine", r"model|kernel|\bos\b|operating"),
)


def system_reported(s: Situation, answer: str) -> Outcome:
    reading = json_object(answer)
    asked = s.groups["topics"].lower()
    wanted = [name for name, words in _TOPICS if re.search(words, asked)]
    names = [n for n in (wanted or [name for name, _ in _TOPICS]) if n in reading]
    if not names:
        return Outcome(False, f"system_info did not report {', '.join(wanted) or 'anything'}: {first_line(answer)}")
    lines = [f"{name}: {_summary(reading[name])}" for name in names]
    return Outcome(True, "; ".join(lines), {name: reading[name] for name in names})


def _summary(value: object) -> str:
    """Return a reading as text: its own ``summary`` if it has one."""
    if isinstance(value, Mapping):
        return str(value.get("summary") or ", ".join(f"{k} {v}" for k, v in value.items()))
    return str(value)


# --- without a tool ---------------------------------------------------------


def greeting(_: Situation) -> Outcome:
    return Outcome(True, f"Hello. {WHO}")


def remember(_: Situation) -> Outcome:
    return Outcome(True, "OK, until this conversation ends. I keep nothing afterwards.")


def recall(s: Situation) -> Outcome:
    """Repeat what was to be remembered. Searches every message, so that text of another task would show."""
    said = [what.strip() for text in s.before for what in _REMEMBER.findall(text)]
    if not said:
        return Outcome(True, "You told me nothing before: this conversation holds only this question.", {"said": []})
    return Outcome(True, f"You said: {'; '.join(said)}", {"said": said})


def calculate(s: Situation) -> Outcome:
    text = s.groups["sum"].strip()
    try:
        value = arithmetic(text)
    except (ValueError, ZeroDivisionError, OverflowError) as exc:
        return Outcome(False, f"{text} can't be calculated: {exc}")
    return Outcome(True, f"{text} = {_shown(value)}", {"value": value})


def summed_up(s: Situation) -> Outcome:
    if not s.earlier:
        return Outcome(False, "This task came without earlier results to sum up.")
    lines = [f"{len(s.earlier)} earlier results:"]
    lines += [f"- {name}: {first_line(outcome.output)}" for name, outcome in s.earlier]
    numbers = [number for _, outcome in s.earlier for number in _numbers(outcome)]
    data: dict[str, Any] = {"results": {name: outcome.output for name, outcome in s.earlier}}
    if len(numbers) == len(s.earlier) > 1:
        data["value"] = sum(numbers)
        lines.insert(0, f"Total: {_shown(sum(numbers))}")  # a summary shows the first line alone
    return Outcome(True, "\n".join(lines), data)


def _numbers(outcome: Outcome) -> list[Number]:
    """Return the outcome's number, if it has one. An earlier step has only its output, so read that."""
    value = outcome.data.get("value")
    if isinstance(value, (int, float)):
        return [value]
    match = _NUMBER.match(outcome.output)
    return [arithmetic(match.group(1) or match.group(2))] if match else []


_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def arithmetic(text: str) -> Number:
    """Evaluate an expression of numbers, brackets and ``+ - * / // % ** ^ × ÷``.

    Raises:
        ValueError: it is no such expression, or its value is too large.
        ZeroDivisionError, OverflowError: as in Python's arithmetic.
    """
    try:
        tree = ast.parse(text.replace("^", "**").replace("×", "*").replace("÷", "/").strip(), mode="eval")
        return _value(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as exc:
        raise ValueError("this model does not know such an expression") from exc


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value: Any = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _value(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        # A power may have more digits than fit in memory.
        if isinstance(node.op, ast.Pow) and (abs(right) > 64 or abs(left) > 1e9):
            raise ValueError("its powers are too large")
        value = _OPERATORS[type(node.op)](left, right)
    else:
        raise ValueError("this model does not know such an expression")
    if isinstance(value, complex):
        raise ValueError("it has no real value")
    if abs(value) > 1e100:
        raise ValueError("it is too large")
    return value  # type: ignore[no-any-return]  # int or float by now


def _shown(value: Number) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
