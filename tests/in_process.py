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


def call_here(program, *arguments, cwd):
    """The code of a command and what it printed, as if a user had started it in a folder."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        # A command must not change what this process does on a signal, and JAX has started.
        patch.setattr("signal.signal", lambda *_: None)
        for module in (module_of(program.command), jobs, ngram, search):
            patch.setattr(module, "start_jax", lambda *_: None, raising=False)
        try:
            # Optax's schedules need these types.
            with jax.numpy_dtype_promotion("standard"):
                run(program, partial(call, program, [*map(str, arguments)]))
        except SystemExit as end:
            code = end.code
        for stream in (out, err):
            stream.flush()
    said = (stream.buffer.getvalue().decode() for stream in (out, err))
    return SimpleNamespace(code=code, **dict(zip(("out", "err"), said, strict=True)))
