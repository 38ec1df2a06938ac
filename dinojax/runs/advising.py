"""Measures data and this machine, and proposes what to train."""

from typing import Any, NamedTuple

import jax

from dinojax.config import check_range, config_from
from dinojax.data.stored import is_prepared, num_characters
from dinojax.evaluation.baseline import Baseline, measure_ngrams
from dinojax.models.model import CharModel
from dinojax.presets import PRESETS
from dinojax.runs.advice import Facts, Plan, Proposal, facts_of, propose
from dinojax.runs.description import Part, build_model, describe
from dinojax.runs.experiment import MOST_VALIDATED, make_experiment
from dinojax.runs.given import clean
from dinojax.runs.speed import Speed, training_speed
from dinojax.runs.suited import fitted, recipe_for

SECONDS = 2.0
"""How long the speed of training is measured."""
LONG = 500_000
"""From this many characters on, a text is worth the larger network of the preset "text-best"."""


class Machine(NamedTuple):
    """What trains here."""

    platform: str
    """As JAX names it, such as "cpu"."""
    num_devices: int
    """Devices (or cores) that share the rows of a batch."""
    speed: Speed
    """Of training the network of the plan."""


class Advice(NamedTuple):
    """What was measured, and what to train."""

    facts: Facts
    ngrams: Baseline
    machine: Machine
    plan: Plan
    proposal: Proposal
    seconds_of_best: float | None
    """About how long the preset "text-best" takes, judging by its number of parameters; None for
    names, and for texts that are not `LONG`."""


def advise(
    data: Part, minutes: float | None = None, *, seconds: float = SECONDS, **settings: Any
) -> Advice:
    """Propose what to train on names or a text in `minutes`, and say what to expect of it.

    `data` are a list of names, a text as a string, or what `data.reading` read. N-gram models are
    counted, and the network that suits the size of the data (see `recipes`) is trained for some
    `seconds`, to see how fast this machine is. That network is proposed, with a shorter training if
    there are fewer minutes than it takes, or else an n-gram model. `settings`, fields of
    `TrainConfig`, replace those that suit the data. `dinojax.train(data, "auto", **settings |
    advice.proposal.settings)` trains the network.

    Raises:
        FloatingPointError: training diverged.
        TypeError: a name is no string.
        ValueError: `minutes` or a setting is out of range, or the data are too small.
    """
    if minutes is not None:
        check_range("minutes", minutes, 1e-3, 1e6)
    if settings.get("validation_fraction") == 0:
        raise ValueError("validation fraction: expected a number above 0 to judge by, got 0")
    data = clean(data, bool(settings.get("lowercase")))
    config = config_from(recipe_for(data) | settings | {"refit": False})
    description, parts, dataset = describe(fitted(config, data, settings), data)
    vocab, held_out = description.vocab, parts["validation"]
    ngrams = measure_ngrams(vocab, parts["train"], held_out)
    experiment = make_experiment(description, parts, dataset)
    num_validated = num_characters(held_out)
    if is_prepared(held_out):
        num_validated = min(num_validated, MOST_VALIDATED)
    plan = Plan(
        config=description.config,
        steps_per_epoch=dataset.steps_per_epoch,
        num_parameters=num_parameters(experiment.model),
        num_validated=num_validated,
    )
    facts, speed = facts_of(data, vocab.size), training_speed(experiment, seconds)
    machine = Machine(jax.default_backend(), experiment.config.devices, speed)
    longer = None
    if facts.is_text and facts.num_characters >= LONG:
        best = PRESETS["text-best"]
        times_larger = num_parameters(build_model(best, vocab)) / plan.num_parameters
        read = best.steps * best.batch_size * best.window
        longer = times_larger * read / speed.characters * (2 if best.refit else 1)
    proposal = propose(facts, ngrams, plan, speed, minutes)
    return Advice(facts, ngrams, machine, plan, proposal, longer)


def num_parameters(model: CharModel) -> int:
    """Number of parameters of a model, none of which is computed."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
