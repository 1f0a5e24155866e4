"""scripts/bootstrap.sh uses a Python that is new enough, or says which one it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.provisioning.support import ROOT

# An interpreter that claims another version and makes no environment.
STAND_IN = """#!{python}
import sys
sys.version_info = (3, {minor}, 2, "final", 0)
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    sys.exit("no environment is made here")
"""
TOOLS = ["cat", "cut", "dirname", "flock", "rm", "sh", "sha256sum"]


class Machine:
    """A PATH with only the programs that the script calls; its Pythons are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)

    def add_python(self, name: str, minor: int) -> None:
        program = self.bin / name
        program.write_text(STAND_IN.format(python=sys.executable, minor=minor))
        program.chmod(0o755)

    def bootstrap(self, lock: str, **environment: str) -> str:
        """Run the script, which must fail since a stand-in makes no environment; return its error output."""
        done = subprocess.run(
            [str(ROOT / "scripts" / "bootstrap.sh"), lock, str(self.folder / "venv")],
            env={"PATH": str(self.bin), "HOME": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_python3_is_used_if_it_is_new_enough(machine: Machine) -> None:
    machine.add_python("python3", 11)
    machine.add_python("python3.13", 13)
    assert "with Python 3.11 from requirements/ansible.txt" in machine.bootstrap("ansible")


def test_ansible_gets_the_newest_python_if_python3_is_too_old(machine: Machine) -> None:
    for name, minor in (("python3", 9), ("python3.10", 10), ("python3.11", 11), ("python3.12", 12)):
        machine.add_python(name, minor)
    assert "with Python 3.12 from requirements/ansible.txt" in machine.bootstrap("ansible")


def test_pibot_itself_uses_a_python_that_is_too_old_for_ansible(machine: Machine) -> None:
    machine.add_python("python3", 9)
    assert "with Python 3.9 from requirements/runtime.txt" in machine.bootstrap("runtime")


def test_without_a_python_for_ansible_the_message_says_which_one_is_needed(machine: Machine) -> None:
    machine.add_python("python3", 10)
    assert machine.bootstrap("ansible").splitlines() == [
        "bootstrap: Ansible needs Python 3.11 or newer and python3 is 3.10: "
        "install a newer one, or name it with PYTHON=python3.x"
    ]


def test_a_named_python_is_not_replaced_by_another(machine: Machine) -> None:
    machine.add_python("python3", 13)
    machine.add_python("mine", 9)
    assert "Ansible needs Python 3.11 or newer and mine is 3.9" in machine.bootstrap("ansible", PYTHON="mine")


def test_without_any_python_the_message_says_so(machine: Machine) -> None:
    assert "PiBot needs Python 3.9 or newer and python3 does not run" in machine.bootstrap("runtime")
