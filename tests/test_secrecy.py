from __future__ import annotations

import os
import subprocess
import sys

HOLDER = """
import subprocess, sys
from pibot.secrecy import keep_memory_private
keep_memory_private()
with subprocess.Popen(["sleep", "1000"]) as child:
    print(child.pid, flush=True)
    sys.stdin.read()
    child.kill()
"""
READ = "import sys; print(open(f'/proc/{sys.argv[1]}/environ', 'rb').read().count(b'sk-secret'))"
# A capability lets root read every process; without it, root is an ordinary user.
AS_USER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def read_environ(pid: int) -> str:
    """Count the key in a process's environment, as another process of its user sees it; else return the error."""
    reader = [*AS_USER, sys.executable, "-c", READ, str(pid)]
    done = subprocess.run(reader, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_another_process_of_the_same_user_can_not_read_its_memory_but_that_of_its_children() -> None:
    holder = subprocess.Popen(
        [*AS_USER, sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KEY": "sk-secret"},
    )
    with holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert "Permission denied" in read_environ(holder.pid)
        assert read_environ(child) == "1"  # without the protection the key can be read
        holder.communicate("")


def test_it_leaves_no_core_dump_and_can_still_read_its_own_memory_size() -> None:
    code = (
        "import resource; from pibot.host import read_host; from pibot.secrecy import keep_memory_private;"
        "keep_memory_private(); print(resource.getrlimit(resource.RLIMIT_CORE)[0], read_host().process_memory)"
    )
    done = subprocess.run([*AS_USER, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    core, size = done.stdout.split()
    assert core == "0"
    assert int(size) > 0
