"""Commands in the process of the tests, which saves them the start of Python and of JAX."""

import io
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from types import SimpleNamespace

import jax
import pytest

from dinojax.cli import jobs, ngram, search
from dinojax.cli.main import call, module_of
from dinojax.cli.terminal import run


def seeded(program, arguments):
    """The arguments, and the seed 0 for names that a command would draw by another each time."""
    flags = {str(each).split("=")[0] for each in arguments}
    is_open = program.command == "sample" and not flags & {"--seed", "--best", "--help"}
    return [*arguments, "--seed=0"] if is_open else [*arguments]


class Output(io.TextIOWrapper):
    """Standard output as a file in UTF-8, or as a terminal."""

    def __init__(self, is_terminal=False):
        super().__init__(io.BytesIO(), "utf-8", newline="")
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode()


def call_here(program, *arguments, cwd, is_terminal=False, draws=False):
    """The code of a command and what it printed, as if a user had started it in a folder.

    Its output may seem to go to a terminal. A training draws its losses only if it `draws`, which
    takes longer than a small one.
    """
    out, err = Output(is_terminal), Output()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        # A command must not change what this process does on a signal, and JAX has started.
        patch.setattr("signal.signal", lambda *_: None)
        for module in (module_of(program.command), jobs, ngram, search):
            patch.setattr(module, "start_jax", lambda *_: None, raising=False)
        if not draws:
            patch.setattr("dinojax.cli.reports.draw_losses", lambda *_: None)
        try:
            # Optax's schedules need these types.
            with jax.numpy_dtype_promotion("standard"):
                run(program, partial(call, program, [*map(str, arguments)]))
        except SystemExit as end:
            code = end.code
    return SimpleNamespace(code=code, out=out.text(), err=err.text())
