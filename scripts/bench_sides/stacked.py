"""The side of the bench that trains many replicas of the exercise at once."""

import time
from collections.abc import Iterator

from dinojax import startup
from dinojax.config import TrainConfig

from bench_sides.work import STACKS, TINY, Prepared, Round, Task, mean_of, read_data


def prepare(task: Task) -> Prepared:
    """Compile the program that trains all replicas."""
    startup.start_jax()

    import numpy as np

    from dinojax.runs.description import describe
    from dinojax.runs.experiment import make_experiment
    from dinojax.training import loop, stack

    num, (names, _) = STACKS[task.side], read_data(task)
    if task.is_tiny:
        num = max(2, num // TINY)
    described = describe(TrainConfig(steps=10**9), names)
    experiment = make_experiment(*described, stacked=True)
    states = [experiment.with_seed(i).initial_state(None) for i in range(num)]
    replicas = stack.run(experiment.train_step, states, experiment.dataset, steps=10**9)
    in_turn: Iterator[list[loop.Progress]] = (list(each) for each in zip(*replicas, strict=True))
    started = time.perf_counter()
    losses = next(in_turn)[0].losses.tolist()
    seconds = time.perf_counter() - started
    # Each call trains for more steps than the last, up to a limit.
    size, has_grown = 0, not task.is_tiny
    while has_grown:
        new = next(in_turn)[0].losses.tolist()
        losses += new
        size, has_grown = len(new), len(new) > size

    def do_round() -> Round:
        started, steps, characters = time.perf_counter(), 0, 0.0
        while steps < task.amount:
            done = next(in_turn)
            losses.extend(done[0].losses.tolist())
            steps += sum(len(each.losses) for each in done)
            characters += float(sum(np.sum(each.num_characters) for each in done))
        seconds = time.perf_counter() - started
        return Round(seconds, steps, characters, mean_of(losses, task.compared))

    return seconds, do_round
