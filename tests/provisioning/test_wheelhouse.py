"""wheelhouse.py builds the archives that nodes install from, and rebuilds only what has changed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.provisioning.support import ROLES, ROOT, load

pytestmark = pytest.mark.slow

SCRIPT = ROLES / "pibot_app" / "files" / "wheelhouse.py"
wheelhouse = load(SCRIPT)

PI_TARGETS = ["3.9.2,armhf,2.31", "3.11.2,arm64,2.36", "3.13.5,amd64,2.41"]

# Records how it was called, and writes a file for each requirement.
FAKE_PIP = """
import json, os, sys
from pathlib import Path

here = Path(__file__).parent
options = dict(zip(sys.argv, sys.argv[1:]))
settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
with (here / "calls").open("a") as calls:
    print(json.dumps({"argv": sys.argv[1:], "settings": settings}), file=calls)
if (here / "broken").exists():
    print("some warning", file=sys.stderr)
    sys.exit("ERROR: " + (here / "broken").read_text())
folder = Path(options.get("--dest") or options["--wheel-dir"])
folder.mkdir()
if sys.argv[1] == "wheel":
    (folder / "pibot_fleet-1-py3-none-any.whl").write_text("pibot")
else:
    for line in Path(options["--requirement"]).read_text().splitlines():
        if not line.startswith(" "):
            (folder / (line.split("==")[0] + ".whl")).write_text(line)
"""


class Workshop:
    """A small checkout, a cache and a fake pip."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.cache = folder / "cache"
        self.pip_folder = folder / "pip"
        for name in ("README.md", "LICENSE", "soul.md", "worker_soul.md", "src/pibot/cli.py", "skills/dice/tools.py"):
            self.write(name, name)
        self.write("pyproject.toml", 'version = "1.2.3"\n')
        self.write("requirements/runtime.txt", "flask==1 \\\n    --hash=sha256:aa\n")
        self.write("requirements/build.txt", "hatchling==1 \\\n    --hash=sha256:bb\n")
        self.pip_folder.mkdir()
        (self.pip_folder / "pip.py").write_text(FAKE_PIP)

    def write(self, name: str, text: str) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pip(self) -> Any:
        return wheelhouse.Pip([sys.executable, str(self.pip_folder / "pip.py")], "a fake")

    def build(self, *targets: str, find_pip: Any = None) -> dict[str, Any]:
        lock = self.source / "requirements" / "runtime.txt"
        parsed = [wheelhouse.Target.parse(text) for text in targets or PI_TARGETS]
        result = wheelhouse.build(self.source, lock, self.cache, parsed, find_pip or self.pip)
        assert isinstance(result, dict)
        return result

    def calls(self) -> list[dict[str, Any]]:
        calls = self.pip_folder / "calls"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    def release(self) -> str:
        return str(wheelhouse.release_name(self.source, (self.source / "requirements" / "runtime.txt").read_text()))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_target_accepts_wheels_of_its_own_glibc_and_older_ones() -> None:
    target = wheelhouse.Target.parse("3.9.2,armhf,2.31")
    assert (target.name, target.python, target.machine) == ("cp39-armv7l-glibc2.31", "3.9", "armv7l")
    assert target.platforms[0] == "manylinux_2_31_armv7l"
    assert {"manylinux_2_17_armv7l", "manylinux2014_armv7l", "linux_armv7l"} <= set(target.platforms)
    assert "manylinux_2_32_armv7l" not in target.platforms


def test_only_x86_has_the_oldest_platform_names() -> None:
    assert "manylinux1_x86_64" in wheelhouse.Target.parse("3.13.5,amd64,2.41").platforms
    assert not any("manylinux1_" in tag for tag in wheelhouse.Target.parse("3.11.2,arm64,2.36").platforms)


@pytest.mark.parametrize("text", ["", "3.11,arm64,2.36", "2.7.18,arm64,2.36", "3.11.2,armv6,2.36", "3.11.2,arm64,musl"])
def test_a_malformed_target_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(wheelhouse.BuildError, match=r"is not a target; write one like 3\.11\.2,arm64,2\.36"):
        wheelhouse.Target.parse(text)


@pytest.mark.parametrize("architecture", ["arm64", "armhf", "amd64"])
@pytest.mark.parametrize("python", ["3.9.2", "3.11.2", "3.13.5"])
def test_the_real_lock_gives_each_kind_of_node_every_package_once(python: str, architecture: str) -> None:
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    lines = wheelhouse.locked_requirements(lock, wheelhouse.Target.parse(f"{python},{architecture},2.36")).splitlines()
    assert all(re.fullmatch(r"[a-zA-Z0-9.-]+==[^ ]+( --hash=sha256:[0-9a-f]{64})+", line) for line in lines)
    versions = dict(line.split(" ")[0].split("==") for line in lines)
    assert len(versions) == len(lines)
    assert {"flask", "cheroot", "aiohttp", "click", "prometheus-client", "ruamel-yaml"} <= set(versions)
    old = python == "3.9.2"
    assert versions["aiohttp"].startswith("3.13." if old else "3.14.")
    assert ("importlib-metadata" in versions) == old
    assert ("async-timeout" in versions) == old
    assert ("typing-extensions" in versions) == (python != "3.13.5")
    assert "colorama" not in versions  # for Windows


def test_a_lock_with_versions_for_different_nodes_names_one_for_each_node() -> None:
    lock = """\
a==1 ; python_full_version < '3.10' \\
    --hash=sha256:11
    # via b
a==2 ; python_full_version >= '3.10' \\
    --hash=sha256:22 \\
    --hash=sha256:33
"""
    old, new = (wheelhouse.Target.parse(f"{python},arm64,2.31") for python in ("3.9.2", "3.11.2"))
    assert wheelhouse.locked_requirements(lock, old) == "a==1 --hash=sha256:11\n"
    assert wheelhouse.locked_requirements(lock, new) == "a==2 --hash=sha256:22 --hash=sha256:33\n"


@pytest.mark.parametrize("name", ["soul.md", "src/pibot/cli.py", "skills/dice/SKILL.md", "requirements/runtime.txt"])
def test_changed_content_makes_another_release(workshop: Workshop, name: str) -> None:
    before = workshop.release()
    assert before.startswith("1.2.3-")
    workshop.write(name, "something else\n")
    assert workshop.release() != before


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_a_changed_readme_or_license_makes_no_other_release(workshop: Workshop, name: str) -> None:
    before = workshop.release()
    workshop.write(name, "better words\n")
    assert workshop.release() == before


def test_a_renamed_file_makes_another_release(workshop: Workshop) -> None:
    before = workshop.release()
    (workshop.source / "skills" / "dice").rename(workshop.source / "skills" / "cards")
    assert workshop.release() != before


def test_compiled_files_and_tests_make_no_other_release(workshop: Workshop) -> None:
    before = workshop.release()
    workshop.write("src/pibot/__pycache__/cli.cpython-311.pyc", "compiled")
    workshop.write("tests/test_something.py", "not shipped")
    assert workshop.release() == before


def test_an_archive_holds_the_nodes_wheels_and_pibot(workshop: Workshop) -> None:
    result = workshop.build("3.11.2,arm64,2.36")
    with tarfile.open(result["archives"]["3.11.2,arm64,2.36"]) as archive:
        assert sorted(archive.getnames()) == ["flask.whl", "pibot_fleet-1-py3-none-any.whl"]
    assert result["changed"] is True
    assert result["release"] == workshop.release()


def test_a_second_build_does_nothing_and_needs_no_pip(workshop: Workshop) -> None:
    first = workshop.build()
    assert len(workshop.calls()) == len(PI_TARGETS) + 2

    def no_pip() -> Any:
        raise AssertionError("a second build needs no pip")

    second = workshop.build(find_pip=no_pip)
    assert second == {**first, "changed": False}


def test_changed_code_is_rebuilt_without_another_download(workshop: Workshop) -> None:
    first = workshop.build()
    workshop.write("src/pibot/cli.py", "another")
    before = len(workshop.calls())
    second = workshop.build()
    assert [call["argv"][0] for call in workshop.calls()[before:]] == ["wheel"]
    assert second["changed"] is True
    assert set(second["archives"].values()).isdisjoint(first["archives"].values())


def test_a_new_kind_of_node_needs_only_its_own_download(workshop: Workshop) -> None:
    workshop.build("3.11.2,arm64,2.36")
    before = len(workshop.calls())
    workshop.build("3.11.2,arm64,2.36", "3.9.2,armhf,2.31")
    assert [call["argv"][0] for call in workshop.calls()[before:]] == ["download"]


def test_pibots_own_wheel_is_built_with_locked_tools_alone(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/somewhere/else")
    workshop.build("3.11.2,arm64,2.36")
    (tools,) = (call["argv"] for call in workshop.calls() if str(workshop.source) in " ".join(call["argv"]))
    assert {"download", "--require-hashes", "--only-binary=:all:", "--no-deps"} <= set(tools)
    assert tools[tools.index("--requirement") + 1] == str(workshop.source / "requirements" / "build.txt")
    (wheel,) = (call for call in workshop.calls() if call["argv"][0] == "wheel")
    assert "--no-index" in wheel["argv"]
    links = Path(wheel["argv"][wheel["argv"].index("--find-links") + 1])
    assert [path.name for path in links.iterdir()] == ["hatchling.whl"]
    assert wheel["settings"] == {"PIP_CONFIG_FILE": "/dev/null"}


def test_a_failed_download_is_reported_in_one_sentence_and_leaves_no_partial_files(workshop: Workshop) -> None:
    (workshop.pip_folder / "broken").write_text("No matching distribution found for flask==1")
    with pytest.raises(wheelhouse.BuildError) as failure:
        workshop.build("3.11.2,arm64,2.36")
    assert re.fullmatch(
        r"downloading .* failed: ERROR: No matching distribution found for flask==1", str(failure.value)
    )
    assert [path.name for path in workshop.cache.iterdir()] == ["lock"]
    (workshop.pip_folder / "broken").unlink()
    assert workshop.build("3.11.2,arm64,2.36")["changed"] is True


def test_without_pip_the_program_says_what_to_install(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = workshop.source / "no" / "python3"
    monkeypatch.setattr(sys, "executable", str(nowhere))
    monkeypatch.setenv("PATH", str(nowhere.parent))
    with pytest.raises(wheelhouse.BuildError, match="pip is missing on the control computer: apt install python3-pip"):
        workshop.build(find_pip=wheelhouse.Pip.find)


def test_the_program_reports_an_error_in_one_line() -> None:
    lock = ROOT / "requirements" / "runtime.txt"
    argv = [
        sys.executable,
        str(SCRIPT),
        f"--source={ROOT}",
        f"--lock={lock}",
        "--cache=/nonexistent",
        "3.11.2,mips,2.36",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"wheelhouse: '3\.11\.2,mips,2\.36' is not a target; .*\n", done.stderr)


def make_wheel(folder: Path, tag: str) -> str:
    """Put a wheel called demo into ``folder`` and return its hash."""
    path = folder / f"demo-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("demo.py", f"# {tag}\n")
        wheel.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        wheel.writestr("demo-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr("demo-1.0.dist-info/RECORD", "")
    return "--hash=sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the only place where the real pip finds wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.mark.parametrize(
    ("target", "tag"),
    [
        ("3.9.2,armhf,2.31", "cp39-cp39-manylinux_2_17_armv7l"),
        ("3.11.2,arm64,2.36", "cp311-cp311-manylinux_2_28_aarch64"),
        ("3.13.5,amd64,2.41", "cp313-cp313-manylinux_2_41_x86_64"),
    ],
)
def test_the_real_pip_takes_the_wheel_that_fits_the_node(
    target: str, tag: str, local_index: Path, tmp_path: Path
) -> None:
    others = ["cp39-cp39-manylinux_2_36_armv7l", "cp311-cp311-manylinux_2_38_aarch64", "cp313-cp313-win_amd64"]
    hashes = [make_wheel(local_index, name) for name in [tag, *others]]
    requirements = " ".join(["demo==1.0", *hashes]) + "\n"
    wheels = tmp_path / "wheels"
    wheelhouse.download(wheelhouse.Pip.find(), requirements, wheelhouse.Target.parse(target), wheels)
    assert [path.name for path in wheels.iterdir()] == [f"demo-1.0-{tag}.whl"]


def test_the_real_pip_refuses_a_wheel_with_another_hash(local_index: Path, tmp_path: Path) -> None:
    make_wheel(local_index, "py3-none-any")
    requirements = f"demo==1.0 --hash=sha256:{'0' * 64}\n"
    target = wheelhouse.Target.parse("3.11.2,arm64,2.36")
    with pytest.raises(wheelhouse.BuildError, match=r"downloading the wheels for Python 3\.11 on aarch64 failed"):
        wheelhouse.download(wheelhouse.Pip.find(), requirements, target, tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists()
