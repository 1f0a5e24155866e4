#!/usr/bin/env python3
"""Build the archives that the nodes install from, on the control computer.

    wheelhouse.py --source CHECKOUT --lock FILE --cache FOLDER TARGET ...

A TARGET is what a node reports about itself: ``3.9.2,armhf,2.31`` (Python, Debian architecture, glibc). Each target
gets one archive with every wheel that such a node needs: the locked requirements, downloaded with their hashes checked,
and PiBot itself, built with tools that are locked in the same way (requirements/build.txt). The cache keeps archives
under names that change with their content, so a second run builds nothing. Prints JSON: the release's name, the archive
of each target, and whether anything was built.

Needs Python 3.9 with ``packaging``, which comes with Ansible, and ``pip``.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

# dpkg's name of an architecture: the wheels' name. A Zero 2W with the 32-bit system is armhf.
MACHINES = {"arm64": "aarch64", "armhf": "armv7l", "amd64": "x86_64"}

# What the wheel is built from.
APP_FILES = ("pyproject.toml", "README.md", "LICENSE", "soul.md", "worker_soul.md")
APP_FOLDERS = ("src/pibot", "skills")
# Needed by the build, but not read on a host: a change of them makes no new release.
WORDS = ("README.md", "LICENSE")

DOWNLOAD = (
    "download",
    "--quiet",
    "--disable-pip-version-check",
    "--require-hashes",
    "--only-binary=:all:",
    "--no-deps",
)


class BuildError(Exception):
    """The archives can't be built. The message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """One kind of node."""

    text: str
    python: str
    machine: str
    glibc: int

    @classmethod
    def parse(cls, text: str) -> Target:
        match = re.fullmatch(r"(3\.\d+)(\.\d+\w*),(\w+),2\.(\d+)", text)
        if match is None or match[3] not in MACHINES:
            raise BuildError(f"{text!r} is not a target; write one like 3.11.2,arm64,2.36 ({', '.join(MACHINES)})")
        return cls(text, match[1], MACHINES[match[3]], int(match[4]))

    @property
    def name(self) -> str:
        return f"cp{self.python.replace('.', '')}-{self.machine}-glibc2.{self.glibc}"

    @property
    def platforms(self) -> list[str]:
        """Return the platform tags that this node accepts: all, since ``pip download`` matches each literally."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 4, -1)]
        tags.append(f"manylinux2014_{self.machine}")
        if self.machine == "x86_64":
            tags += [f"manylinux2010_{self.machine}", f"manylinux1_{self.machine}"]
        return [*tags, f"linux_{self.machine}"]

    @property
    def markers(self) -> dict[str, str]:
        """Return the values for the lock's conditions on this node. pip would take those of this computer instead."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.text.split(",")[0],
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.text.split(",")[0],
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


def locked_requirements(lock: str, target: Target) -> str:
    """Return the part of the lock that applies to ``target``, with its hashes and without its conditions."""
    lines = []
    for block in re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", lock)):
        if not block.strip():
            continue
        head, *hashes = re.split(r"\s*\\\n\s*", block.strip())
        requirement = Requirement(head)
        if requirement.marker is None or requirement.marker.evaluate(target.markers):
            lines.append(" ".join([f"{requirement.name}{requirement.specifier}", *hashes]))
    return "\n".join(lines) + "\n"


def app_files(source: Path) -> Iterator[Path]:
    """Yield the files that a release is built from, in a fixed order."""
    yield from (source / name for name in APP_FILES)
    for folder in APP_FOLDERS:
        for path in sorted((source / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def release_name(source: Path, lock: str) -> str:
    """Return the version with a hash of what a host runs, so that equal content is the same release."""
    digest = hashlib.sha256(lock.encode())
    for path in app_files(source):
        if str(path.relative_to(source)) in WORDS:
            continue
        digest.update(f"{path.relative_to(source)}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    version = re.search(r'(?m)^version = "([^"]+)"', (source / "pyproject.toml").read_text())
    if version is None:
        raise BuildError(f"{source / 'pyproject.toml'} names no version; is {source} PiBot's checkout?")
    return f"{version[1]}-{digest.hexdigest()[:10]}"


@dataclass(frozen=True)
class Pip:
    """How to call pip on this computer.

    Attributes:
        command: its command line.
        version: what ``pip --version`` prints, which names its Python too.
    """

    command: list[str]
    version: str

    @classmethod
    def find(cls) -> Pip:
        """Return this Python's pip, or the system's if it has none, as with Ansible from pipx."""
        for python in (sys.executable, "python3"):
            command = [python, "-m", "pip"]
            try:
                answer = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)  # nosec B603 # no shell; one of three fixed commands
            except FileNotFoundError:
                continue
            if answer.returncode == 0:
                return cls(command, answer.stdout)
        raise BuildError("pip is missing on the control computer: apt install python3-pip")

    def run(self, what: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        result = subprocess.run(  # nosec B603 # no shell; the owner's own pip
            [*self.command, *arguments], capture_output=True, text=True, check=False, env=environment
        )
        if result.returncode != 0:
            said = result.stderr.splitlines()
            errors = [line for line in said if line.startswith("ERROR")] or said
            raise BuildError(f"{what} failed: {' '.join(errors[-3:])[-1500:]}")


def download(pip: Pip, requirements: str, target: Target, folder: Path) -> None:
    """Download the locked wheels for ``target`` into ``folder``, which appears only when it is complete."""
    if folder.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        listing = Path(new) / "requirements.txt"
        listing.write_text(requirements)
        platforms = [argument for tag in target.platforms for argument in ("--platform", tag)]
        pip.run(
            f"downloading the wheels for Python {target.python} on {target.machine}",
            *(*DOWNLOAD, "--implementation", "cp", "--python-version", target.python, *platforms),
            *("--requirement", str(listing), "--dest", f"{new}/wheels"),
        )
        Path(new, "wheels").rename(folder)


def download_tools(pip: Pip, lock_file: Path, folder: Path) -> None:
    """Download the build tools of PiBot's wheel into ``folder``, for the Python that pip runs on."""
    if folder.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        pip.run(
            "downloading the build tools of PiBot's wheel",
            *(*DOWNLOAD, "--requirement", str(lock_file), "--dest", f"{new}/wheels"),
        )
        Path(new, "wheels").rename(folder)


def build_app(pip: Pip, source: Path, tools: Path, folder: Path) -> None:
    """Build PiBot's wheel from a clean copy of its files with ``tools`` alone, whose hashes were checked."""
    if folder.is_dir():
        return
    # The owner's settings for pip (PIP_FIND_LINKS, pip.conf) must not bring in a build tool that is not locked.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        for path in app_files(source):
            copy = Path(new, "source") / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        pip.run(
            "building PiBot's wheel",
            *("wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", f"{new}/wheels"),
            # docs/decisions.md, D77
            *("--no-index", "--find-links", str(tools), f"{new}/source"),
            environment=environment,
        )
        Path(new, "wheels").rename(folder)


def pack(archive: Path, folders: list[Path]) -> None:
    """Pack all wheels of ``folders`` into one archive, not compressed since wheels are."""
    if archive.is_file():
        return
    with tempfile.TemporaryDirectory(dir=archive.parent) as new:
        with tarfile.open(f"{new}/archive", "w") as tar:
            for folder in folders:
                for wheel in sorted(folder.glob("*.whl")):
                    tar.add(wheel, wheel.name)
        Path(new, "archive").rename(archive)


def build(
    source: Path, lock_file: Path, cache: Path, targets: list[Target], find_pip: Callable[[], Pip] = Pip.find
) -> dict[str, object]:
    """Build the archives that the cache lacks, and return the release's name, the archives and whether one was built.

    Raises:
        BuildError: pip is missing or failed.
    """
    lock = lock_file.read_text()
    release = release_name(source, lock)
    tools_lock = source / "requirements" / "build.txt"
    cache.mkdir(parents=True, exist_ok=True)
    archives = {target: cache / f"{release}-{target.name}.tar" for target in targets}
    changed = not all(archive.is_file() for archive in archives.values())
    if changed:
        with (cache / "lock").open("w") as turn, ThreadPoolExecutor(max_workers=4) as pool:
            fcntl.flock(turn, fcntl.LOCK_EX)  # another run may be building the same
            pip = find_pip()
            tools = cache / f"tools-{short_hash(tools_lock.read_text() + pip.version)}"
            app = cache / f"app-{release}"
            wheels = {target.name: (cache / f"wheels-{short_hash(lock)}-{target.name}", target) for target in targets}
            jobs = [
                pool.submit(download, pip, locked_requirements(lock, target), target, folder)
                for folder, target in wheels.values()
            ]
            download_tools(pip, tools_lock, tools)
            build_app(pip, source, tools, app)
            for job in jobs:
                job.result()
            for target, archive in archives.items():
                pack(archive, [wheels[target.name][0], app])
    return {
        "release": release,
        "changed": changed,
        "archives": {target.text: str(archive) for target, archive in archives.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the archives that the nodes install from.")
    parser.add_argument("--source", type=Path, required=True, help="PiBot's checkout")
    parser.add_argument("--lock", type=Path, required=True, help="locked requirements with their hashes")
    parser.add_argument("--cache", type=Path, required=True, help="folder for archives")
    parser.add_argument("targets", nargs="+", metavar="PYTHON,ARCHITECTURE,GLIBC")
    arguments = parser.parse_args()
    try:
        targets = [Target.parse(text) for text in dict.fromkeys(arguments.targets)]
        result = build(arguments.source.resolve(), arguments.lock, arguments.cache.expanduser(), targets)
    except (BuildError, OSError) as exc:
        sys.stderr.write(f"wheelhouse: {exc}\n")
        return 1
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
