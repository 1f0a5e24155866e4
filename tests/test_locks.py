"""Check the locks without the internet; `make audit` looks up known vulnerabilities."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.processes import ROOT

LOCKS = sorted(path.name for path in (ROOT / "requirements").glob("*.txt"))
TOGETHER = ("runtime.txt", "openai.txt", "dev.txt", "build.txt")
"""Locks that may be installed into one environment together."""

NODES = list(product(("3.9", "3.10", "3.11", "3.12", "3.13"), ("x86_64", "aarch64", "armv7l")))


class Entry(NamedTuple):
    """One requirement of a lock, and the hashes of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]


def entries(lock: str) -> Iterator[Entry]:
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        words = line.partition(" #")[0].strip()
        if words and not words.startswith("#"):
            requirement, *hashes = words.split(" --hash=")
            yield Entry(Requirement(requirement.strip()), tuple(found.strip() for found in hashes))


def environment(python: str, machine: str) -> dict[str, str]:
    """Return the values of the environment markers on such a Linux machine."""
    fixed = {"platform_system": "Linux", "sys_platform": "linux", "os_name": "posix", "extra": ""}
    versions = {"python_version": python, "python_full_version": f"{python}.5", "platform_machine": machine}
    implementation = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    return {
        **{name: str(value) for name, value in default_environment().items()},
        **fixed,
        **versions,
        **implementation,
    }


def chosen(lock: str, python: str, machine: str) -> dict[str, list[str]]:
    """Return the versions of each package that pip would install there."""
    found: dict[str, list[str]] = {}
    where = environment(python, machine)
    for entry in entries(lock):
        marker = entry.requirement.marker
        if marker is None or marker.evaluate(where):
            found.setdefault(canonicalize_name(entry.requirement.name), []).append(str(entry.requirement.specifier))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_to_one_version_and_to_its_files(lock: str) -> None:
    for requirement, hashes in entries(lock):
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None, requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", found) for found in hashes), requirement
        assert len(set(hashes)) == len(hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_no_address_and_no_folder(lock: str) -> None:
    for line in (ROOT / "requirements" / lock).read_text().splitlines():
        assert not re.match(r"\s*(-i|-f|-e|-r|--(?!hash=))", line), line
        assert "://" not in line


@pytest.mark.parametrize("lock", LOCKS)
def test_a_machine_gets_each_package_once(lock: str) -> None:
    for python, machine in NODES:
        twice = {name: versions for name, versions in chosen(lock, python, machine).items() if len(versions) > 1}
        assert not twice, (python, machine)


@pytest.mark.parametrize(("python", "machine"), NODES)
def test_a_package_has_the_same_version_in_every_lock(python: str, machine: str) -> None:
    known: dict[str, list[str]] = {}
    for lock in TOGETHER:
        for name, versions in chosen(lock, python, machine).items():
            assert known.setdefault(name, versions) == versions, (lock, name)


@pytest.mark.parametrize(("python", "machine"), NODES)
def test_the_runtimes_lock_has_the_packages_that_pibot_requires(python: str, machine: str) -> None:
    asked = re.findall(r'^    "([^"]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    wanted = [Requirement(text) for text in asked if re.match(r"[a-z-]+\[?.*>=", text)]
    assert len(wanted) >= 7
    locked = chosen("runtime.txt", python, machine)
    for requirement in wanted:
        (version,) = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version.removeprefix("==")), requirement


@pytest.mark.parametrize("name", ["cheroot", "aiohttp"])
def test_a_package_whose_private_parts_are_replaced_has_an_upper_bound(name: str) -> None:
    (asked,) = re.findall(rf'^    "({name}[<>=].*)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert "<" in [specifier.operator for specifier in Requirement(asked).specifier]


@pytest.mark.system
def test_the_installed_packages_are_compatible() -> None:
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
