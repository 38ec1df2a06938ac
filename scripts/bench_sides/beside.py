"""The side of the bench that trains replicas of the exercise in processes, one on each core."""

import time
from contextlib import closing
from dataclasses import asdict
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from dinojax import startup
from dinojax.config import TrainConfig

from bench_sides.work import Prepared, Round, Task, read_data


def prepare(task: Task) -> Prepared:
    """Make the folder of the replicas; each process compiles its own programs."""
    from dinojax.files import digest, read_regular
    from dinojax.runs import replica, workers
    from dinojax.runs.sweep import Outcome

    num, (names, _) = startup.num_cores(), read_data(task)
    mean_length = float(np.mean([len(name) + 1 for name in names]))
    steps, sha256 = task.amount // num, digest(read_regular(task.data))
    folder, seeds = Path(mkdtemp(dir=task.handed_over.parent)), count()

    def next_task() -> replica.Task:
        seed = next(seeds)
        settings = asdict(TrainConfig(steps=steps, devices=1, seed=seed))
        data = str(task.data)
        return replica.Task(str(folder / f"seed-{seed}"), settings, False, data, data, sha256)

    def do_round() -> Round:
        """Steps and seconds while all processes train."""
        done, first, started = [0] * num, 0, time.perf_counter()
        has_begun = False
        with closing(workers.train_beside([next_task() for _ in range(num)], num)) as events:
            for number, what in filter(None, events):
                if isinstance(what, Outcome):
                    break
                done[number] = what.step
                if not has_begun and all(done):
                    has_begun, first, started = True, sum(done), time.perf_counter()
        seconds, amount = time.perf_counter() - started, float(max(1, sum(done) - first))
        return Round(seconds, amount, amount * mean_length, None)

    return 0.0, do_round
