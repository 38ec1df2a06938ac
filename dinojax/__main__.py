"""The start of every command. Ctrl-C is handled before anything else is imported."""

import gc
import os
import signal
import sys
from typing import NoReturn


def interrupt(*_: object) -> NoReturn:
    """Print one line and end the program at once."""
    # Not by an exception: libraries may turn it into an error of their own, and JAX may crash when
    # Python shuts down while it compiles.
    started_as = os.path.basename(sys.argv[0])
    name = "dinojax" if started_as in ("-m", "__main__.py") else started_as
    if sys.stderr:
        os.write(sys.stderr.fileno(), f"{name}: interrupted\n".encode())
    os._exit(128 + signal.SIGINT)


def main(script: str | None = None) -> NoReturn:
    """Run the command that the command line names, or that of a script, and exit with its code."""
    signal.signal(signal.SIGINT, interrupt)
    # JAX makes many objects that stay. Looking for garbage among them less often starts faster.
    gc.set_threshold(20_000, 20, 20)
    # Imported here, as an interrupt while it is imported is to be one line too.
    from dinojax.cli import main as commands

    if script:
        commands.run_script(script)
    commands.main()


if __name__ == "__main__":
    main()
