"""No test may hang: nothing is waited for without a limit, and a test that hangs all the same is ended with the stacks of its threads."""
import ast
import sys
from pathlib import Path

import pytest
from processes import completed

TESTS = sorted(Path(__file__).parent.glob("*.py"))
LIMITED = {"run", "call", "check_call", "check_output", "communicate", "wait", "result"}  # these take `timeout`
ENDLESS = {"os.wait", "os.waitpid", "os.fork", "os.system", "mp.spawn", "multiprocessing.Process"}


def unlimited(source):
    "Lines that wait without a limit, or fork."
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute): continue
        name, keywords = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        of_subprocess = name.startswith("subprocess.") and node.func.attr in LIMITED
        of_process = node.func.attr in {"communicate", "wait", "result"} and not name.startswith("subprocess.")
        if (of_subprocess or of_process) and "timeout" not in keywords: yield node.lineno, name
        if node.func.attr == "join" and not node.args and "timeout" not in keywords: yield node.lineno, name
        if name in ENDLESS and "join" not in keywords: yield node.lineno, name
        if node.func.attr == "get_context" and "fork" in [getattr(a, "value", None) for a in node.args]: yield node.lineno, name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_wait_has_a_limit(path):
    assert not list(unlimited(path.read_text(encoding="utf-8"))), path.name


@pytest.mark.parametrize("line", [
    "process.wait()", "process.communicate()", "thread.join()", "subprocess.run(command)", "os.waitpid(pid, 0)", "os.fork()",
    "mp.spawn(work, (), nprocs=2)", "future.result()", "multiprocessing.get_context('fork')"])
def test_planted_waits_are_seen(line):
    assert list(unlimited(line))


HANGING = """
import collections, itertools, subprocess, sys, threading

def test_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def test_child(): subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])

def test_native(): collections.deque(itertools.repeat(0), maxlen=0)

def test_fine(): pass
"""


def test_hanging_tests_are_ended_with_their_stacks(tmp_path):
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout_method = signal\nfaulthandler_exit_on_timeout = true\n")
    limits = ["-o", "timeout=3", "-o", "faulthandler_timeout=6", "-n", "2", "-p", "no:cacheprovider"]
    done = completed([sys.executable, "-m", "pytest", *limits, "test_hanging.py"], cwd=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "3 failed, 1 passed" in done.stdout, said
    assert said.count("Failed: Timeout") >= 2 and "lock.acquire()" in said and "_try_wait" in said
    assert 'test_hanging.py", line 11 in test_native' in said  # the stack of native code
