"""What a description makes of its data: batches, a model, a training step and a validation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from dinojax import parallel, platforms, processes
from dinojax.config import TrainConfig
from dinojax.data.batches import Dataset, cut_text
from dinojax.data.blocks import Block
from dinojax.data.stored import Text, excerpt, has_borders, is_prepared
from dinojax.data.vocab import Vocab
from dinojax.evaluation.apart import cut_blocks
from dinojax.evaluation.losses import Costs, column_evaluation, name_evaluation
from dinojax.models import code
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.runs.description import Description, Part, Parts, build_model
from dinojax.runs.memory import check_training
from dinojax.startup import best_share
from dinojax.training import stack
from dinojax.training.averaging import init_average, make_averaging
from dinojax.training.contract import check_own
from dinojax.training.loss import LOSSES
from dinojax.training.optimizers import make_optimizer, make_schedule
from dinojax.training.step import TrainState, TrainStep, init_train_state, make_train_step

WINDOW = 256
"""Number of characters of a text that a validation reads from a fresh state."""

MOST_VALIDATED = 2**20
"""About the most characters of prepared data that a validation reads: it costs as much as training
on some third of them, and leaves a standard error of half a hundredth of a nat a character."""


class Experiment(NamedTuple):
    """Everything needed to train and to validate."""

    description: Description
    parts: Parts
    dataset: Dataset
    model: CharModel
    train_step: TrainStep
    schedule: optax.Schedule
    """The learning rate of each step, counted from 0."""
    mesh: Mesh | None
    start: Callable[[jax.Array, Params | None], TrainState]
    """The state before the first step of a run with this key; see `initial_state`."""
    evaluate: Callable[[Params], Costs] | None
    """The costs of the validation part, or None where there is no such part."""

    @property
    def config(self) -> TrainConfig:
        return self.description.config

    @property
    def key_sample(self) -> jax.Array:
        """The key for names or texts in reports."""
        return _keys(jax.random.key(self.config.seed))[2]

    def initial_state(self, params: Params | None) -> TrainState:
        """The state before the first step, with given parameters, or with random ones for None."""
        return self.start(jax.random.key(self.config.seed), params)

    @property
    def step_size(self) -> int:
        """Number of characters, padding included, in the rows of a step."""
        is_padded = self.config.batches == "padded"
        time = self.dataset.time if is_padded else self.config.window
        return time * self.config.batch_size

    def with_seed(self, seed: int) -> "Experiment":
        """The experiment with another seed and the same data; it shares all that is compiled."""
        config = replace(self.config, seed=seed)
        return self._replace(description=self.description._replace(config=config))


def _keys(key: jax.Array) -> jax.Array:
    """The keys of a run for its parameters, its training and its samples."""
    return jax.random.split(key, 3)


def make_evaluation(
    model: CharModel,
    vocab: Vocab,
    part: Part,
    mesh: Mesh | None = None,
    *,
    window: int = WINDOW,
    blocks: Sequence[Block] = (),
) -> Callable[[Params], Costs]:
    """A function from parameters to the costs of each name, or of each `window` of a text.

    Of prepared data, it reads about `MOST_VALIDATED` characters, spread evenly. If the part of a
    text consists of `blocks`, no window has characters of two.
    """
    if isinstance(part, str | Text):
        if blocks:
            columns = cut_blocks(part, vocab, window, blocks)
            return column_evaluation(model, columns, mesh, resets=has_borders(part))
        columns = cut_text(part, vocab, window, MOST_VALIDATED if is_prepared(part) else None)
        return column_evaluation(model, columns, mesh, resets=has_borders(part))
    return name_evaluation(model, vocab, excerpt(part, MOST_VALIDATED), mesh)


def make_experiment(
    description: Description,
    parts: Parts,
    dataset: Dataset,
    *,
    window: int = WINDOW,
    stacked: bool = False,
) -> Experiment:
    """Make what a run needs; `dataset` holds the batches of parts["train"].

    Where the configuration leaves the number of devices open, as many as are worth it share the
    rows; those of all processes count. `window` is the number of characters of a text that a
    validation reads at once. The training step of a `stacked` experiment is that of replicas on one
    device; see `training.stack`.

    Raises:
        ValueError: there are not as many devices, processes cannot share the rows, there is not
            enough memory, the device cannot run the recurrence asked for, or code of the user's own
            is not kept, or does not do what is expected of it; see `contract`.
    """
    config, vocab = description.config, description.vocab
    num = processes.num_processes()
    if stacked:
        config = replace(config, devices=1)
    if not config.devices:
        each = best_share(config.batch_size, parallel.num_available(), num)
        config = replace(config, devices=num * each)
    mesh = parallel.make_mesh(config.devices)
    recurrence = platforms.recurrence(config.recurrence, jax.default_backend())
    model, optimizer = build_model(config, vocab, recurrence), make_optimizer(config)
    loss = LOSSES[config.loss] if config.loss in LOSSES else code.load(config.loss)
    check_own(config, vocab, model, optimizer)
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        carry_state=config.is_text,
        resets=config.batches != "padded",
        reset_rate=config.reset_rate,
        averaging=make_averaging(config),
        axis=parallel.axis_of(mesh),
        replicas=stack.REPLICAS if stacked else None,
    )
    # A model that predicts every character with equal probability costs log(vocab) nats each.
    untrained_loss = np.log(vocab.size)
    if config.loss == "summed":
        is_padded = config.batches == "padded"
        rows = dataset.num_shuffled if is_padded else dataset.steps_per_epoch * config.batch_size
        untrained_loss *= dataset.num_characters / rows

    @jax.jit
    def start(key: jax.Array, params: Params | None) -> TrainState:
        # An argument, not a constant, so that one program serves all seeds.
        key_params, key_train, _ = _keys(key)
        params = model.init(key_params) if params is None else params
        options = {"batch_size": config.batch_size, "smoothed_loss": untrained_loss}
        state = init_train_state(key_train, params, model, optimizer, **options)
        return state._replace(average=init_average(params, config))

    evaluate = None
    if "validation" in parts:
        part, blocks = parts["validation"], description.blocks
        evaluate = make_evaluation(model, vocab, part, mesh, window=window, blocks=blocks)
    description, schedule = description._replace(config=config), make_schedule(config)
    experiment = Experiment(
        description, parts, dataset, model, train_step, schedule, mesh, start, evaluate
    )
    shapes = jax.eval_shape(experiment.initial_state, None)
    check_training(shapes, experiment.step_size // num, config.devices // num)
    return experiment
