"""Train in this process: start or resume a run, take its steps, and load what it learned."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dinojax import parallel, processes
from dinojax.config import TrainConfig
from dinojax.data.stored import Text
from dinojax.files import digest
from dinojax.models.cells import Params
from dinojax.models.code import pinned
from dinojax.models.grown import grown
from dinojax.models.trained import Trained
from dinojax.presets import PRESETS, check_preset, resolve, resolve_suited
from dinojax.recipes import AUTO, recipe
from dinojax.runs import folder as runs
from dinojax.runs import refit
from dinojax.runs.description import Part, Tally, describe, facts, part_content
from dinojax.runs.exchange import CONFIG_FILE
from dinojax.runs.experiment import Experiment, make_experiment
from dinojax.runs.given import clean
from dinojax.runs.lineage import read_origin
from dinojax.runs.metadata import write_config
from dinojax.runs.metrics import append_metrics, rewind_metrics
from dinojax.runs.mixtures import load_any
from dinojax.runs.recorder import Report, record
from dinojax.runs.selection import SELECTION
from dinojax.runs.suited import fitted, recipe_for
from dinojax.training import loop
from dinojax.training.optimizers import describe_gradients
from dinojax.training.step import TrainState


def start(
    experiment: Experiment,
    folder: Path | str | None,
    initial_params: Params | None = None,
    selection: Experiment | None = None,
) -> tuple[TrainState, Tally]:
    """Start a new run in a folder, replacing an earlier one; without a folder, in memory.

    It starts from `initial_params`, or from random parameters. One that is to be refitted starts
    together with its `selection`, which is trained first, and whose state is returned.
    """

    def begun(experiment: Experiment) -> runs.Begun:
        state = experiment.initial_state(initial_params)
        # Processors of another kind may round otherwise. An optimizer may keep parameters, too.
        names = "params", "optimizer_state", "average"
        state = state._replace(**parallel.of_first({name: getattr(state, name) for name in names}))
        return state, experiment.description, experiment.parts

    first = begun(selection or experiment)
    if folder is not None and parallel.may_write():
        if selection:
            runs.start_run(folder, *begun(experiment), selection=first)
        else:
            runs.start_run(folder, *first)
    return first[0], Tally()


def inherited(experiment: Experiment, earlier: Trained) -> Params:
    """The parameters with which a run begins that begins with an `earlier` model.

    For characters that the earlier model did not know, they are those of a run that begins with
    random ones; see `grown`.
    """
    vocab = experiment.description.vocab
    if vocab == earlier.vocab:
        return earlier.params
    return grown(earlier.params, experiment.initial_state(None).params, earlier.vocab, vocab)


def resume(
    experiment: Experiment, run: runs.Run, arrays: Mapping[str, Any], keep: int = runs.NUM_KEPT
) -> tuple[TrainState, Tally]:
    """Resume a run from `run` and `arrays`, its last checkpoint as `load_checkpoint` returns it.

    Its description becomes that of `experiment`. If it is another, later checkpoints are removed.

    Raises:
        ValueError: the checkpoint does not fit the experiment.
    """
    state = runs.restore_state(run, arrays, jax.eval_shape(experiment.initial_state, None))
    if parallel.may_write():
        folder, description = run.checkpoint.parent, experiment.description
        rewind_metrics(folder, run.step)
        if run.description != description:
            # Otherwise a run that is killed before its next checkpoint would lose the change.
            runs.save_checkpoint(folder, state, description, run.tally, keep=keep)
            for path in runs.find_checkpoints(folder):
                if runs.step_of(path) > run.step and path.is_file():
                    path.unlink()
        steps = {"step": run.step, "steps": description.config.steps}
        append_metrics(folder, {"event": "resumed", **steps})
        write_config(folder / CONFIG_FILE, description)
    return state, run.tally


def work(
    experiment: Experiment,
    state: TrainState,
    tally: Tally,
    folder: Path | str | None = None,
    *,
    keep: int = runs.NUM_KEPT,
    save_every: int = 0,
    lines_per_validation: int = 20,
    clock: Callable[[], float] = time.monotonic,
    **sizes: int,
) -> Generator[Report]:
    """Train to the last step, recording in `folder`, and report several times a second.

    See `loop.run`, which takes `sizes` such as `chunk_size`, and `recorder.record`.

    Raises:
        FloatingPointError: a loss or a parameter is not finite.
        OSError: a file cannot be written; the last good checkpoint is still there.
    """
    folder = None if folder is None else Path(folder)
    clock = processes.common_clock(clock)
    log_every, options = course(experiment.config, save_every, lines_per_validation)
    progress = loop.run(
        experiment.train_step,
        state,
        experiment.dataset,
        mesh=experiment.mesh,
        clock=clock,
        **options | sizes,
    )
    return record(
        progress,
        experiment,
        state,
        tally,
        folder=folder if parallel.may_write() else None,
        log_every=log_every,
        keep=keep,
        save_every=save_every,
        clock=clock,
    )


def course(
    config: TrainConfig, save_every: int, lines_per_validation: int = 20
) -> tuple[int, dict[str, Any]]:
    """Steps from one line of metrics to the next, and what `loop.run` must know of a recorded run.

    These are its `steps`, its `stops` and the summary of gradients that the lines hold.
    """
    log_every = max(1, config.evaluate_every // lines_per_validation)
    # A checkpoint is saved before the cooldown.
    stops = log_every, config.evaluate_every, save_every, config.cooldown_start
    clipping = {"clip_value": config.clip_value, "clip_norm": config.clip_norm}
    summarize = partial(describe_gradients, **clipping)
    return log_every, {
        "steps": config.steps,
        "stops": [*filter(None, stops)],
        "summarize": summarize,
    }


def train(
    names: Part,
    preset: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    init_from: Path | str | None = None,
    **settings: Any,
) -> Trained:
    """Train a model on a list of names, or on a text: a string, or what `data.reading` read.

    The settings are those of `preset` (by default "dinos" for names and "text" for a text; "auto"
    for those that suit the data, see `recipes`), except for `settings`, fields of `TrainConfig`.
    A text may be too short for all rows of a batch, see `fitted`. Names are stripped, and blank
    ones skipped. They may have `labels`, one each. With a `folder`, an ordinary run is recorded
    there; one that is refitted has its selection in the folder `selection` within it (see `refit`).
    The run begins with the parameters of the run in the folder `init_from`, if it is given,
    and then has its cell, gate, layers and hidden units. Returns the model of the best validation,
    or without validation the last.

    Several processes that have met (see `processes.join`) train one model if each calls this with
    the same arguments. The first writes the folder, and all return the model.

    Raises:
        FloatingPointError: training diverged.
        OSError: a file cannot be written.
        TypeError: a name is no string.
        ValueError: a setting, the data or the folder is not suitable, or processes differ in them.
    """
    is_text = isinstance(names, str | Text)
    preset, given = preset or ("text" if is_text else "dinos"), pinned(settings | {"seed": seed})
    check_preset(preset, (AUTO, *PRESETS))
    earlier = origin = None
    if init_from is not None:
        earlier = runs.load_run(Path(init_from))
        origin = read_origin(Path(init_from), earlier)
    combined: dict[str, Any] = {"earlier": earlier.config if earlier else None, "given": given}
    if preset == AUTO:
        # Names are read alike, however many they are.
        config = resolve_suited(recipe(1, None if is_text else 1), **combined)
    else:
        config = resolve(preset, **combined)
    if config.is_text != is_text:
        kinds = ("a text", "names") if config.is_text else ("names", "a text")
        raise ValueError(f"expected {kinds[0]} for these settings, got {kinds[1]}")
    data = clean(names, config.lowercase, labels)
    if preset == AUTO:
        config = resolve_suited(recipe_for(data), **combined)
    config, sha256 = fitted(config, data, settings), digest(part_content(data))
    options: dict[str, Any] = {"keep_window": "window" in settings, "sha256": sha256}
    with ExitStack() as stack:
        with processes.together("start"):
            if config.refit:
                refit.check_alone()
            described = describe(config, data, origin, **options)
            processes.compare("data", facts(described[0]))
            experiment, selection = make_experiment(*described), None
            if config.refit:
                described = describe(refit.selecting(experiment.config), data, origin, **options)
                selection = make_experiment(*described)
            folder = Path(folder) if folder is not None else None
            if folder and parallel.may_write():
                runs.take_folder(folder)
                stack.enter_context(runs.locked(folder))
            processes.exchange("folder", None)
            params = inherited(experiment, earlier.trained) if earlier else None
            state, tally = start(experiment, folder, params, selection)
        if selection:
            inner = folder and folder / SELECTION
            if inner:
                stack.enter_context(runs.locked(inner))
            report = _best(selection, state, tally, inner)
            assert report.validation_loss is not None
            epochs = report.step / selection.dataset.steps_per_epoch
            description = refit.chosen(
                experiment.description,
                experiment.dataset.steps_per_epoch,
                selection.description,
                (report.step, report.validation_loss),
                epochs,
            )
            experiment = make_experiment(description, experiment.parts, experiment.dataset)
            if folder:
                state, tally = resume(experiment, *runs.load_checkpoint(folder, "last"))
            else:
                state, tally = start(experiment, None, params)
        best = _best(experiment, state, tally, folder).state.model_params
    vocab, max_length = experiment.description.vocab, experiment.description.max_length
    return Trained(experiment.model, parallel.gather(best), vocab, max_length)


def _best(experiment: Experiment, state: TrainState, tally: Tally, folder: Path | None) -> Report:
    """Train, and return the report of the best validation, or without validation the last."""
    best = None
    with closing(work(experiment, state, tally, folder)) as reports:
        for report in reports:
            best = report if report.is_best else best
            if not report.is_patient:
                break
    assert best is not None
    return best


def load(folder: Path | str, which: str = "best") -> Trained:
    """The model of a run at one of its checkpoints: "best", "last", or a number of steps.

    Of a sweep, it is the mean of the replicas of its best setting; see `mixtures.load_any`.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no run, or no such checkpoint.
    """
    return load_any(folder, which).trained
