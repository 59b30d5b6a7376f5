"""Processes as users start them: fresh ones, never forks of the test's own process (which has threads), and never waited for without a limit."""
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import torch.multiprocessing as mp

SECONDS = 240  # that a process may take, on a machine that other work uses, too


@contextmanager
def started(command, **options):
    "A running process. When the block ends, however it does, the process and its children have ended, too."
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, start_new_session=True, **{**output, **options})
    try:
        yield process
    finally:
        kill(process)
        for pipe in (process.stdout, process.stderr):
            if pipe: pipe.close()


def kill(process):
    "SIGKILL for a process of `started` and its children, and what it says in the end."
    try:
        if os.name == "posix": os.killpg(process.pid, signal.SIGKILL)
        else: process.kill()
    except (ProcessLookupError, PermissionError): pass  # it has ended by itself
    process.wait(timeout=SECONDS)


def completed(command, seconds=SECONDS, **options):
    "`subprocess.run` with captured text, a limit, and no child left behind."
    with started(command, **options) as process:
        out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def wait_until(condition, process, seconds=SECONDS):
    "Look again and again until something holds, the process ends, or the time is up."
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end: time.sleep(0.002)


def read_line(process, seconds=SECONDS):
    "The next line that a process of `started` writes to its output. Raises `TimeoutError` where none comes."
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds): raise TimeoutError(f"no line came in {seconds} s")
    return next(process.stdout, "")


def free_port():
    "A port that nobody listens on now."
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def spawn(work, arguments, processes, seconds=SECONDS):
    "Call `work(rank, *arguments)` in fresh processes. Raises what one of them raises, `TimeoutError` where they do not end."
    context = mp.spawn(work, arguments, nprocs=processes, join=False)
    end = time.monotonic() + seconds
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end: raise TimeoutError(f"{processes} processes of {work.__name__} were not done after {seconds} s")
    finally:
        for process in context.processes:
            if process.is_alive(): process.kill()


def chs(*arguments):
    "The command line of `chs`, as a program to start."
    return [sys.executable, "-m", "clip_help_simclr.cli", *map(str, arguments)]
