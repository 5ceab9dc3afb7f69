"""Systems other than this one: what Windows lacks is neither imported nor called."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

#: Modules of POSIX systems, and names in `os` and `signal`, that Windows does not have.
MODULES = ("crypt", "fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
OS = (
    *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fchmod", "fork", "getegid", "geteuid", "getgid", "getpgid"),
    *("getpgrp", "getuid", "killpg", "mkfifo", "nice", "pread", "pwrite", "register_at_fork", "sched_getaffinity"),
    *("setpgid", "setpgrp", "setsid", "statvfs", "sysconf", "uname", "wait", "wait4"),
)
SIGNAL = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1", "alarm", "pause", "setitimer")

#: Libraries choose their code by the name of the system, which stays: the names go once they are imported.
WINDOWS = f"""
import os, signal, sys
import filelock, matplotlib.pyplot, sklearn.datasets, torch._dynamo, torchvision, typer

for module, names in ((os, {OS}), (signal, {SIGNAL})):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
assert not hasattr(os, "fork") and not hasattr(signal, "SIGKILL")

import multiprocessing
from topocell import cli
from topocell.errors import RunError
from topocell.runs.directory import RunDir
from topocell.runtime.workers import Task, _work

code = cli.main(sys.argv[1:])
with RunDir.existing(sys.argv[-1]):
    try:
        RunDir.existing(sys.argv[-1])
    except RunError as refusal:
        print(refusal)
ours, theirs = multiprocessing.Pipe()
ours.send(Task("one", print, ("made",)))
ours.close()  # nobody waits for the answer: the worker ends
_work(theirs, dict(os.environ))
sys.exit(code)
"""

NO_MODULES = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {MODULES}:
            raise ImportError(f"{{name}} is not part of this system")

sys.meta_path.insert(0, Absent())
for name in {MODULES}:
    sys.modules.pop(name, None)
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TOPOCELL_NATIVE": "0"}
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_the_modules_named_here_exist_where_this_is_tested() -> None:
    """Else the other tests could not fail."""
    if sys.platform == "win32":
        pytest.skip("this is what the others are about")
    assert {"fcntl", "grp", "pwd", "resource", "termios"} <= sys.stdlib_module_names
    assert "ImportError" in python(f"{NO_MODULES}\nimport fcntl").stderr


def test_it_is_imported_without_modules_of_posix() -> None:
    commands = (["--help"], ["recipes", "list"], ["run", "--help"])
    done = python(f"{NO_MODULES}\nimport topocell\nfrom topocell import cli\nprint([cli.main(a) for a in {commands}])")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("[0, 0, 0]\n")


def test_a_run_calls_nothing_that_windows_lacks(tmp_path: Path) -> None:
    """A run, the refusal of a second holder, a worker of a study."""
    done = python(WINDOWS, "run", "quickstart", "--budget", "smoke", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report.html").exists()
    assert re.search(r"but process [0-9]+ on \S+ is using it", done.stdout)
    assert done.stdout.endswith("made\n")
