"""One side of the bench at one work, as a process: it prepares, then does a round a line it reads.

It answers with JSON, a line each. Sides are processes of their own so that no threads, no memory
and no settings of one are in the way of another; while one works, the others wait.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bench_sides.work import NUMPY, NUMPY_TUNED, OURS, PADDED, PYTORCH, Task

MODULES = {
    OURS: "bench_sides.ours",
    PADDED: "bench_sides.ours",
    NUMPY: "bench_sides.with_numpy",
    NUMPY_TUNED: "bench_sides.with_numpy",
    PYTORCH: "bench_sides.with_pytorch",
}


def main() -> None:
    """Prepare and work, as the JSON object in the first argument says."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # What libraries may print is no answer.
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
