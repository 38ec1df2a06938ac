"""Processes that train replicas side by side, each one after the other, until none is left.

A process reads tasks, lines of JSON, from its standard input and answers in lines of JSON how far
it has come and what came of each. At the end of its input it saves what it trains and ends; so it
does too when the process that started it is killed.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from dinojax.runs import replica
from dinojax.runs.replica import Step
from dinojax.runs.sweep import FAILED, Outcome
from dinojax.startup import start_jax

ANSWERS: dict[str, Callable[..., Step | Outcome]] = {"Step": Step, "Outcome": Outcome}
SECONDS_PER_YIELD = 0.5
SECONDS_TO_END = 60.0
"""How long a process may take to save and end before it is killed."""


def train_beside(
    tasks: Sequence[tuple[Any, ...]], num_workers: int, module: str = replica.__name__
) -> Generator[tuple[int, Step | Outcome] | None]:
    """Train the replicas of `tasks` in `num_workers` processes.

    Their `module` has a function `train` that takes a task, and a type `Task` that is made of its
    fields, all of them JSON; each of `tasks` has these fields.

    It yields the number of a task, and how far it has come or what came of it; or None if nothing
    has happened for half a second. No process waits for another. The task of a process that dies
    has failed, and another process takes its place. When the caller closes the generator, all save
    what they train, and end.
    """
    waiting = deque(enumerate(tasks))
    events = queue.SimpleQueue[tuple[subprocess.Popen[str], Step | Outcome | None]]()
    doing = dict[subprocess.Popen[str], int]()
    processes, listeners = list[subprocess.Popen[str]](), list[threading.Thread]()

    def listen(process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                # A process that dies may leave part of a line.
                with suppress(ValueError):
                    kind, *fields = json.loads(line)
                    events.put((process, ANSWERS[kind](*fields)))
        events.put((process, None))

    def start() -> None:
        processes.append(_start_process())
        listeners.append(threading.Thread(target=listen, args=processes[-1:], daemon=True))
        listeners[-1].start()
        go_on(processes[-1])

    def go_on(process: "subprocess.Popen[str]") -> None:
        """Give a process its next task, or let it end."""
        assert process.stdin
        # It may have died; then its output has ended.
        with suppress(OSError):
            if not waiting:
                process.stdin.close()
                return
            doing[process], task = waiting.popleft()
            process.stdin.write(f"{json.dumps([module, *task])}\n")
            process.stdin.flush()

    try:
        for _ in range(min(num_workers, len(tasks))):
            start()
        while doing:
            try:
                process, answer = events.get(timeout=SECONDS_PER_YIELD)
            except queue.Empty:
                yield None
                continue
            if answer is None and process in doing:
                yield doing.pop(process), Outcome(FAILED, message=_death(process.wait()))
                if waiting:
                    start()
            elif isinstance(answer, Step):
                yield doing[process], answer
            elif answer is not None:
                yield doing.pop(process), answer
                go_on(process)
    finally:
        for process in processes:
            # It may have died with a task unread.
            with suppress(OSError):
                assert process.stdin
                process.stdin.close()
        for process in processes:
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for listener in listeners:
            listener.join()


def _start_process() -> "subprocess.Popen[str]":
    package = str(Path(__file__).parents[2])
    paths = [package, os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dinojax.runs.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        # Ctrl-C is for the process that starts it.
        process_group=0 if os.name == "posix" else None,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _death(code: int) -> str:
    """Why a process ended, from its exit code."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; was memory short?" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def main() -> None:
    """Train what standard input asks for, as one of these processes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Keep what libraries print apart from the answers.
    os.dup2(2, 1)
    # Of all queues, this one can be written to in a signal handler.
    tasks = queue.SimpleQueue[Any]()
    is_stopped = threading.Event()

    def stop(*_: Any) -> None:
        is_stopped.set()
        tasks.put(None)

    def listen() -> None:
        with os.fdopen(0, encoding="utf-8") as lines:
            for line in lines:
                tasks.put(json.loads(line))
        stop()

    def answer(what: Step | Outcome) -> None:
        try:
            answers.write(f"{json.dumps([type(what).__name__, *what])}\n")
            answers.flush()
        except BrokenPipeError:
            stop()

    signal.signal(signal.SIGTERM, stop)
    start_jax(1)
    threading.Thread(target=listen, daemon=True).start()
    while not is_stopped.is_set() and (task := tasks.get()):
        module, fields = import_module(task[0]), task[1:]
        with closing(module.train(module.Task(*fields))) as coming:
            for step in coming:
                answer(step)
                if is_stopped.is_set():
                    break


if __name__ == "__main__":
    main()
