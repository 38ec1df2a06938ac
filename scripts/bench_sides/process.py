"""A process that is one side of the bench: it prepares, then does a round for each line it reads.

Its answers are lines of JSON. Separate processes share no threads, memory or settings.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bench_sides.work import (
    BESIDE,
    BFLOAT16,
    LSTM,
    NUMPY,
    NUMPY_TUNED,
    OURS,
    PADDED,
    PYTORCH,
    STACKS,
    Task,
)

MODULES = {
    OURS: "bench_sides.ours",
    PADDED: "bench_sides.ours",
    LSTM: "bench_sides.ours",
    BFLOAT16: "bench_sides.ours",
    NUMPY: "bench_sides.with_numpy",
    NUMPY_TUNED: "bench_sides.with_numpy",
    PYTORCH: "bench_sides.with_pytorch",
    BESIDE: "bench_sides.beside",
    **dict.fromkeys(STACKS, "bench_sides.stacked"),
}


def main() -> None:
    """Do the task that is given as a JSON object in the first argument."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Keep what libraries print apart from the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    given = json.loads(sys.argv[1])
    paths = {name: Path(given[name]) for name in ("data", "run", "handed_over")}
    task = Task(**{**given, **paths})
    seconds, do_round = import_module(MODULES[task.side]).prepare(task)
    answer(seconds)
    for _ in sys.stdin:
        answer(do_round()._asdict())


if __name__ == "__main__":
    main()
