"""Replicas of one run, trained as a stack, each recorded as an ordinary run of its own."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import jax

from dinojax import platforms
from dinojax.runs import folder as runs
from dinojax.runs.description import Tally
from dinojax.runs.experiment import Experiment
from dinojax.runs.memory import available_bytes, training_bytes
from dinojax.runs.recorder import Report, record
from dinojax.runs.session import course
from dinojax.training import stack
from dinojax.training.step import TrainState

BYTES_PER_BOUND = 1.5
"""Memory to plan for a replica, for each byte of `memory.training_bytes`. XLA took 1.01 to 1.29 of
the bound for each replica in stacks of 1 to 16 of three presets, of 50 and 256 units."""


def stack_size(experiment: Experiment, num: int) -> int:
    """How many of `num` replicas to stack on this platform; 1 to train each by itself.

    That is 1, too, for data that do not lie in memory.
    """
    if experiment.dataset.examples is None:
        return 1
    state = jax.eval_shape(experiment.initial_state, None)
    needed = BYTES_PER_BOUND * training_bytes(state, experiment.step_size)
    # Infinite where the system does not say.
    most = int(min(num, available_bytes() // needed))
    return platforms.stack_size(jax.default_backend(), num, most)


class Replica(NamedTuple):
    """A run that is to be trained beside others, as `session.start` or `resume` began it."""

    seed: int
    state: TrainState
    tally: Tally
    folder: Path | None
    """None for a replica that is not recorded."""


class Ended(NamedTuple):
    """Why a replica ended early: it diverged, or could not be written."""

    error: FloatingPointError | OSError


def work(
    experiment: Experiment,
    replicas: Sequence[Replica],
    *,
    keep: int = runs.NUM_KEPT,
    save_every: int = 0,
    lines_per_validation: int = 20,
    clock: Callable[[], float] = time.monotonic,
    **sizes: int,
) -> Generator[tuple[int, Report | Ended]]:
    """Train replicas of a stacked `experiment` to the last step, and report them in turn.

    It yields the number of a replica and its report, several times a second for all. A replica
    ends alone when it diverges, cannot be written or has lost its patience; the others go on with
    unchanged results. When the caller closes the generator, all are saved as they are. `sizes` are
    those of `stack.run`. For how close a replica comes to the same run trained alone, see
    `training.stack`.
    """
    log_every, options = course(experiment.config, save_every, lines_per_validation)
    states = [replica.state for replica in replicas]
    progress = stack.run(
        experiment.train_step, states, experiment.dataset, clock=clock, **options | sizes
    )
    with ExitStack() as exits:
        coming = {}
        for i, replica in enumerate(replicas):
            exits.callback(progress[i].close)
            coming[i] = record(
                progress[i],
                experiment.with_seed(replica.seed),
                replica.state,
                replica.tally,
                folder=replica.folder,
                log_every=log_every,
                keep=keep,
                save_every=save_every,
                clock=clock,
            )
            exits.enter_context(closing(coming[i]))
        steps = {i: int(replica.state.step) for i, replica in enumerate(replicas)}
        while coming:
            # Those that have done fewer steps, after a resume, catch up with the others first.
            i = min(coming, key=steps.__getitem__)
            report = None
            try:
                report = next(coming[i], None)
            except (FloatingPointError, OSError) as error:
                yield i, Ended(error)
            if report:
                steps[i] = report.step
                yield i, report
            if report is None or not report.is_patient:
                coming.pop(i).close()
                progress[i].close()
