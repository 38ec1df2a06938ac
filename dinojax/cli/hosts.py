"""How a command trains with other processes: its flags, who prints, and how all end."""

import io
import os
import re
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import redirect_stdout, suppress

from dinojax import processes
from dinojax.cli.arguments import Parser, whole_number
from dinojax.cli.terminal import BAD_INPUT, INTERRUPTED, describe_error, is_of_own_code, tell
from dinojax.startup import set_cpu_flags

REMEDY = "start all of them again, with --resume if the run has begun"
CRASH = re.compile(rb"^F\d{4} ", re.MULTILINE)
"""How JAX begins what it prints when it ends a process."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that describe several processes."""
    add = parser.add_argument_group("several processes, on one or more hosts").add_argument
    text = "address of the first of several processes that train together; the same for all"
    add("--coordinator", metavar="HOST:PORT", help=text)
    add("--num-processes", metavar="N", type=whole_number, help="how many processes there are")
    text = "which of them this is, from 0; under SLURM, Open MPI and others none of these is needed"
    add("--process-id", metavar="I", type=whole_number, help=text)


def is_one_of_several(arguments: Namespace) -> bool:
    """Whether flags, or the launcher of this process, say that there are others."""
    return cluster_of(arguments) is not None or processes.is_recognised()


def cluster_of(arguments: Namespace) -> processes.Cluster | None:
    """The processes that the flags describe; None where there are no such flags."""
    flags = ("coordinator", "num_processes", "process_id")
    given = [getattr(arguments, name) for name in flags]
    if None in given and any(value is not None for value in given):
        raise ValueError("--coordinator, --num-processes and --process-id go together; give all")
    try:
        return processes.make_cluster(*given)
    except ValueError as error:
        message = str(error)
        for name in ("coordinator", "number of processes", "process id"):
            flag = f"--{name.replace('number of', 'num').replace(' ', '-')}"
            message = re.sub(f"^{name}:", f"{flag}:", message)
        raise ValueError(message) from None


def take_part(parser: Parser, arguments: Namespace, work: Callable[[], int]) -> int:
    """Meet the other processes, do the `work`, and part from them; returns its code.

    Only the first process prints, besides errors. Where this process cannot go on with the others,
    it ends at once: Python would first wait for them.
    """
    say = apart_from_libraries(parser.prog)
    say(f"not all processes have come within {processes.WAIT} s; start all of them, each once")
    code: object = BAD_INPUT
    is_joined = False
    # Also by the second Ctrl-C in training: to save, all processes would have to come together.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        with parser.reported_errors():
            # JAX may read them as soon as processes meet.
            set_cpu_flags()
            processes.join(cluster_of(arguments))
        is_joined = True
        say(f"another process has ended, or cannot be reached; {REMEDY}")
        if processes.process_id() == 0:
            code = work()
        else:
            parser.is_silent = True
            with redirect_stdout(io.StringIO()):
                code = work()
    except SystemExit as end:
        if not is_joined and processes.num_processes() == 1:
            raise
        # It has said why.
        say("")
        code = BAD_INPUT if is_of_own_code(parser.program, end) else end.code
    # What JAX raises where a collective operation fails.
    except (RuntimeError, ValueError) as error:
        if not is_of_own_code(parser.program, error):
            say(f"cannot go on with the other processes: {describe_error(error)}; {REMEDY}", True)
        code = BAD_INPUT
    except BrokenPipeError:
        code = 0
    except Exception as error:
        from traceback import print_exc

        code = BAD_INPUT
        if not is_of_own_code(parser.program, error):
            print_exc()
            code = 1
    else:
        # What was to do is done, also if others have gone without a farewell.
        with suppress(RuntimeError):
            if code != BAD_INPUT:
                processes.leave()
                return int(str(code))
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(int(str(code)))


def apart_from_libraries(program: str) -> Callable[..., None]:
    """Keep what libraries print by themselves from the terminal, and return a function for errors.

    JAX ends a process with pages of text where others are lost. A process that watches this one
    says in one line what the function was last given, if JAX has ended it so or, with a second
    argument that is true, in any case. Standard output and error of Python stay as they are.
    """
    if not hasattr(os, "fork"):
        return lambda text, always=False: tell(program, f"error: {text}") if always else None
    said, pipe = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if not os.fork():
        os.close(pipe)
        # Keys in a terminal, and what a launcher sends to all, are for the process it watches.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with open(said, "rb") as file:
            text = file.read()
        last = re.findall(rb"\0([01])(.*)\n", text)[-1]
        if last[1] and (last[0] == b"1" or CRASH.search(text)):
            tell(program, f"error: {last[1].decode(errors='replace')}")
            sys.stderr.flush()
        os._exit(0)
    os.close(said)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        options = {"encoding": old.encoding, "errors": old.errors}
        buffering = 1 if descriptor == 2 else -1
        new = open(os.dup(descriptor), "w", buffering, **options)  # noqa: SIM115  # it stays open
        setattr(sys, name, new)
        os.dup2(pipe, descriptor)
    os.set_inheritable(pipe, False)

    def say(text: str, always: bool = False) -> None:
        os.write(pipe, f"\0{int(always)}{text}\n".encode())

    return say
