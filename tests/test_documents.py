"""What the documents say is so: settings, commands, routes, messages, paths and links are compared with the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pibot.cli import commands
from pibot.contracts import CommandResult, ToolCall, ToolContext
from pibot.master_components.store.records import Submission
from pibot.master_hub import HubService, create_hub_app
from pibot.settings.catalog import KNOWN_SETTINGS
from pibot.tool_registry import SkillLibrary
from pibot.web.keys import needed
from tests.skills.support import FakeCommands
from tests.support.fleet import settings_for
from tests.support.processes import ROOT
from tests.support.scripted_llm import ScriptedLLM

DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
HISTORY = {"CHANGELOG.md"}
"""Documents that name files as they once were."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def rows(text: str) -> Iterator[list[str]]:
    """The rows of a text's tables, as cells."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def section(text: str, heading: str) -> str:
    """What stands between a heading and the next one of its level or above."""
    level = heading.index(" ")
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no {heading!r}"
    return found[1]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+ .*)$", without_code(text), re.MULTILINE)


def anchor(heading: str) -> str:
    """The name under which GitHub links to a heading."""
    words = heading.lstrip("# ").lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


# --- README ---------------------------------------------------------------------------------------------------------


def test_the_readme_has_at_most_1000_words() -> None:
    assert len(read("README.md").split()) <= 1000


def test_the_readme_names_every_document() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)\)", read("README.md")))
    assert linked == {f"docs/{path.name}" for path in DOCS}


def test_the_two_readmes_have_the_same_headings_and_commands() -> None:
    english, chinese = read("README.md"), read("README.zh-CN.md")
    assert [h.partition(" ")[0] for h in headings(english)] == [h.partition(" ")[0] for h in headings(chinese)]
    assert code_blocks(english) == code_blocks(chinese)
    assert len(list(rows(english))) == len(list(rows(chinese)))
    assert re.findall(r"\]\((?!README)([^)]+)\)", english) == re.findall(r"\]\((?!README)([^)]+)\)", chinese)


@pytest.mark.parametrize("name", ["README.md", "docs/skills.md"])
async def test_the_skill_that_the_documents_show_works(name: str, tmp_path: Path) -> None:
    page, tools = (re.findall(rf"^```{kind}\n(.*?)^```", read(name), re.M | re.S)[0] for kind in ("markdown", "python"))
    folder = tmp_path / "dice"
    folder.mkdir()
    (folder / "SKILL.md").write_text(page)
    (folder / "tools.py").write_text(tools)
    box = SkillLibrary(tmp_path).load(["dice"], ToolContext("t1", tmp_path, FakeCommands(CommandResult(0, ""))))
    result = await box.execute(ToolCall("c1", "roll", {"sides": 20}))
    assert not result.is_error, result.content
    assert int(result.content) in range(1, 21)


# --- Settings -------------------------------------------------------------------------------------------------------


def described_settings() -> Iterator[tuple[str, list[str]]]:
    for cells in rows(read("docs/settings.md")):
        name = re.fullmatch(r"`([A-Z][\w<>]+)`", cells[0])
        if name:
            yield name[1].replace("WORKER_1_", "WORKER_<n>_"), cells[1:]


def test_each_setting_is_described_and_no_other() -> None:
    assert {name for name, _ in described_settings()} == {setting.name for setting in KNOWN_SETTINGS}


def test_each_setting_is_described_with_its_readers_and_its_default() -> None:
    known = {setting.name: setting for setting in KNOWN_SETTINGS}
    for name, (readers, _, default, _) in described_settings():
        assert readers == ", ".join(known[name].read_by), name
        if known[name].default:
            assert default.startswith(f"`{known[name].default}`"), name
        elif default.startswith("`"):
            assert name == "PIBOT_LOG_DIR", f"{name} has no default in the code"


# --- Commands -------------------------------------------------------------------------------------------------------


def options_in_help(name: str) -> set[str]:
    """The options that ``pibot NAME --help`` lists: those of ``worker`` are not click's."""
    told = CliRunner().invoke(commands.main, [name, "--help"]).output
    return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", told, re.MULTILINE)) - {"--help"}


def test_each_command_is_described_with_its_arguments_and_options() -> None:
    text = read("docs/commands.md")
    described = re.findall(r"^### `pibot (\w+)", text, re.MULTILINE)
    assert sorted(described) == sorted(commands.main.commands)
    for name, command in commands.main.commands.items():
        arguments = [(p.name or "").upper() for p in command.params if isinstance(p, click.Argument) and p.nargs == 1]
        part = section(text, f"### `{' '.join(['pibot', name, *arguments])}`")
        described_options = {cells[0].strip("`") for cells in rows(part) if cells[0].startswith("`--")}
        assert described_options == options_in_help(name), name


def test_the_exit_codes_are_those_of_the_help() -> None:
    told = dict(re.findall(r"^ +(\d+) +(.+)$", commands.EPILOG, re.MULTILINE))
    written = {
        cells[0]: cells[1].replace("`run`", "'run'") for cells in rows(read("docs/commands.md")) if cells[0].isdigit()
    }
    assert written == told


# --- HTTP API -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heading", "room"), [("## The master", "master_hub"), ("## The worker", "worker")])
def test_each_route_is_in_the_overview_of_the_api(heading: str, room: str) -> None:
    paths = json.loads(read(f"src/pibot/{room}/openapi.json"))["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    part = section(read("docs/http-api.md"), heading)
    assert {cells[0].strip("`") for cells in rows(part) if re.match(r"`(GET|POST|DELETE) ", cells[0])} == routes


BRACES = str.maketrans("<>", "{}")


def test_the_overview_says_which_scope_each_route_of_the_master_needs(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm)
        service = HubService(settings)
        app = create_hub_app(service, settings)
        service.close()
    scopes = {
        f"{method} {rule.rule.translate(BRACES)}": needed(app.view_functions[rule.endpoint], method).value
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
    }
    part = section(read("docs/http-api.md"), "## The master")
    routes = {cells[0].strip("`"): cells[1] for cells in rows(part) if re.match(r"`(GET|POST|DELETE) ", cells[0])}
    open_to_all = {"GET /health", "GET /openapi.json"}
    assert routes == {route: "none" if route in open_to_all else scopes[route] for route in routes}


def test_the_overview_names_the_fields_of_a_job() -> None:
    table = section(read("docs/http-api.md"), "## The master").partition("| field of `POST /task` |")[2]
    assert [cells[0].strip("`") for cells in rows(table) if cells[0].startswith("`")] == list(
        Submission.__annotations__
    )


# --- Troubleshooting ------------------------------------------------------------------------------------------------

OTHERS_WORDS = {
    "No route to host",
    "Connection timed out",
    "Permission denied (publickey…)",
    "Host key verification failed",
    "Attempting to decrypt but no vault secrets found",
    "port … Address already in use",
    "UNREACHABLE!",
    "certificate is not accepted: … self-signed",
    "unable to get local issuer certificate",
    "certificate has expired",
    "not yet valid",
    "IP address mismatch",
    "Hostname mismatch",
}
"""What SSH, Ansible, OpenSSL and the system say."""

SEEN = ("what you see", "what is printed", "what the journal says")
"""The heads of the columns that hold messages."""


def messages(text: str) -> Iterator[str]:
    """Each message that the symptom tables of a document quote."""
    column = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
        if not cells:
            column = None
        elif any(name in cells for name in SEEN):
            column = next(n for n, cell in enumerate(cells) if cell in SEEN)
        elif column is not None and not line.startswith("|--"):
            yield from re.findall(r"`([^`]+)`", cells[column])


def spoken() -> str:
    """All texts in the code, each string in one piece although its source goes over lines."""
    kinds = ("*.py", "*.yml", "*.sh", "*.html", "*.js")
    folders = ("src", "ansible", "scripts")
    sources = [path.read_text("utf-8") for folder in folders for kind in kinds for path in (ROOT / folder).rglob(kind)]
    joined = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(sources))
    return re.sub(r"\s+", " ", joined)


@pytest.mark.parametrize("name", ["troubleshooting", "operations", "tls"])
def test_each_message_in_the_symptom_tables_is_one_of_the_programs(name: str) -> None:
    text = spoken()
    quoted = set(messages(read(f"docs/{name}.md"))) - OTHERS_WORDS
    unknown = [m for m in quoted if not all(piece.strip(" .") in text for piece in re.split(r"…|\d+|: ", m))]
    assert len(quoted) > 1
    assert unknown == []


# --- Paths and links ------------------------------------------------------------------------------------------------

FOLDERS = ("src", "tests", "docs", "ansible", "molecule", "skills", "scripts", "chaos", "benchmarks", "requirements")


@pytest.mark.parametrize("path", [p for p in TEXTS if p.name not in HISTORY], ids=lambda path: path.name)
def test_each_path_that_a_document_names_exists(path: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", without_code(path.read_text("utf-8")))
    made = {"skills/dice/SKILL.md", "skills/dice/tools.py", "ansible/secrets/api_key"}
    assert [name for name in named if name not in made and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_each_link_leads_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?://", target):
            continue
        name, _, part = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if part:
            assert part in {anchor(h) for h in headings(file.read_text("utf-8"))}, target


def test_a_room_and_the_architecture_say_the_same_about_where_to_start_reading() -> None:
    table = section(read("docs/architecture.md"), "## The rooms")
    starts = {cells[0].strip("`"): cells[2].strip("`") for cells in rows(table) if cells[0].startswith("`src/")}
    for room, start in starts.items():
        text = " ".join(read(f"{room}__init__.py").split())
        told = re.search(r"[Ss]tart reading at :mod:`~?([\w.]+)`", text)
        assert told is None or f"src/{told[1].replace('.', '/')}.py" == start, room


def test_each_decision_that_the_code_cites_exists() -> None:
    known = re.findall(r"^### D(\d+)\. ", read("docs/decisions.md"), re.MULTILINE)
    assert len(set(known)) == len(known)
    folders = ("src", "skills", "chaos", "benchmarks", "ansible", "molecule", "scripts", "tests")
    cited = {
        number
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yml", ".j2", ".sh", ".sql", ".js"}
        for group in re.findall(r"decisions\.md, ((?:D\d+(?:, | and )?)+)", path.read_text("utf-8"))
        for number in re.findall(r"\d+", group)
    }
    assert cited - set(known) == set()


def test_no_document_says_to_install_another_projects_package_or_names_a_package_registry() -> None:
    for path in [*TEXTS, *ROOT.glob("*/**/README.md")]:
        if ".venv" in str(path):
            continue
        text = path.read_text("utf-8")
        assert "pip install pibot" not in text, path
        assert not re.search(r"pypi\.org|pythonhosted|/simple/", text), path
