"""No test may hang: nothing is waited for without a limit, and a test that hangs all the same is ended with the stacks of its threads."""
import ast
import sys
from pathlib import Path

import pytest
from processes import completed

TESTS = sorted(Path(__file__).parent.glob("*.py"))
LIMITED = {"run", "call", "check_call", "check_output", "communicate", "wait", "result"}  # these take `timeout`
ENDLESS = {"os.wait", "os.waitpid", "os.fork", "os.system", "mp.spawn", "mp.Process", "mp.Pool", "multiprocessing.Process", "multiprocessing.Pool"}


ENDLESS_METHODS = {"get", "recv", "acquire", "readline", "join"}  # without an argument
PIPES = ("stdout", "stderr", "stdin")


def unlimited(source):
    "Lines that wait without a limit, or fork."
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call): continue
        name, keywords = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        limited, last = keywords.get("timeout", "None") != "None", name.rpartition(".")[2]
        texts = [getattr(argument, "value", None) for argument in (*node.args, *[keyword.value for keyword in node.keywords])]
        waits = last in LIMITED and (name.startswith("subprocess.") or (name in LIMITED and name not in ("run", "call")) or ("." in name and last in {"communicate", "wait", "result"}))
        endless = "." in name and last in ENDLESS_METHODS and not node.args
        reads = last == "read" and not node.args and name.split(".")[-2:-1] and name.split(".")[-2] in PIPES
        forks = last in {"get_context", "set_start_method"} and "fork" in texts
        processes = name in ENDLESS and not (name == "mp.spawn" and keywords.get("join") == "False")
        if (waits or endless or reads) and not limited: yield node.lineno, name
        elif forks or processes: yield node.lineno, name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_wait_has_a_limit(path):
    assert not list(unlimited(path.read_text(encoding="utf-8"))), path.name


@pytest.mark.parametrize("line", [
    "process.wait()", "process.communicate()", "thread.join()", "subprocess.run(command)", "os.waitpid(pid, 0)", "os.fork()",
    "mp.spawn(work, (), nprocs=2)", "mp.spawn(work, (), nprocs=2, join=True)", "future.result()", "multiprocessing.get_context('fork')", "multiprocessing.get_context(method='fork')",
    "multiprocessing.set_start_method('fork')", "queue.get()", "pipe.recv()", "lock.acquire()", "process.stdout.read()", "process.stdout.readline()", "process.wait(timeout=None)", "check_output(command)",
    "mp.Process(target=work)", "multiprocessing.Pool()"])
def test_planted_waits_are_seen(line):
    assert list(unlimited(line))


@pytest.mark.parametrize("line", ["' '.join(words)", "table.get(key)", "process.wait(timeout=3)", "mp.spawn(work, (), nprocs=2, join=False)", "path.read()", "os.path.join(a, b)", "run(2)"])
def test_other_lines_are_not(line):
    assert not list(unlimited(line))


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
