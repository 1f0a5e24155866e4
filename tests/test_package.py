"""The wheel that a node installs holds everything that a worker and a hub need, in any folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.processes import ROOT, clean_environment, serving_process
from tests.support.serving import ask

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, built from a copy so that the build leaves nothing in the work tree."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in ("src", "skills"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "soul.md", "worker_soul.md"):
        shutil.copy2(ROOT / name, source / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("pibot_fleet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.parametrize("role", ["worker", "hub"])
def test_the_installed_package_serves_from_an_empty_folder(role: str, unpacked: Path, tmp_path: Path) -> None:
    environment = clean_environment(PYTHONPATH=str(unpacked))
    argv = ["-m", "pibot", role, "--port", "0"]
    with serving_process(tmp_path / "node", argv, environment, port_pattern=r"listen=\S+:(\d+)") as node:
        assert ask(node.port, "GET", "/health").json()["status"] == "healthy"
        ready = (tmp_path / "node" / "output.txt").read_text()
    assert (
        str(unpacked)
        in subprocess.run(
            [sys.executable, "-c", "import pibot; print(pibot.__file__)"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    if role == "worker":
        assert "skills=file_ops,shell_exec,system_info,web_fetch" in ready


def test_every_file_of_the_package_and_of_the_skills_is_in_the_wheel(unpacked: Path) -> None:
    def files(folder: Path) -> set[str]:
        return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts}

    bundled = unpacked / "pibot" / "bundled"
    assert files(bundled / "skills") == files(ROOT / "skills")
    assert files(unpacked / "pibot") - {f"bundled/{name}" for name in files(bundled)} == files(ROOT / "src" / "pibot")
    assert {"soul.md", "worker_soul.md"} <= files(bundled)
