"""NumPy's side of the bench: the exercise's own loops, from the reference in the tests' folder.

That folder must be on the path.
"""

import time
from itertools import cycle
from typing import Any

import numpy as np

from dinojax.presets import PRESETS

import numpy_reference as reference
from bench_sides.work import (
    MAX_LENGTH,
    NUMPY_TUNED,
    WORKS,
    Prepared,
    Round,
    Task,
    mean_of,
    nested,
    read_data,
    repeated,
    trained_params,
)


def prepare(task: Task) -> Prepared:
    """Read the data of a work; nothing is compiled."""
    kind = task.work.split()[0]
    return 0.0, {"train": training, "sample": sampling, "score": scoring}[kind](task)


def training(task: Task) -> Any:
    """Train on one name per step."""
    names, vocab = read_data(task)
    names_ids = [vocab.encode(name).tolist() for name in names]
    with np.load(task.handed_over, allow_pickle=False) as arrays:
        params: Any = nested({name: arrays[name] for name in arrays.files})
        order = cycle(arrays["order"].tolist())
    recipe, losses = PRESETS["dinos"], []
    tuned = task.side == NUMPY_TUNED
    gradients_of = reference.tuned_loss_and_gradients if tuned else reference.loss_and_gradients

    def do_round() -> Round:
        nonlocal params
        indices = [next(order) for _ in range(task.amount)]
        started = time.perf_counter()
        params, _, new_losses, _ = reference.train(
            params,
            names_ids,
            indices,
            recipe.learning_rate,
            recipe.clip_value,
            False,
            0.0,
            gradients_of=gradients_of,
        )
        seconds = time.perf_counter() - started
        losses.extend(new_losses)
        characters = float(sum(len(names_ids[i]) + 1 for i in indices))
        return Round(seconds, task.amount, characters, mean_of(losses, task.compared))

    return do_round


def sampling(task: Task) -> Any:
    """Sample names one after the other."""
    params: Any = trained_params(task)
    generator = np.random.default_rng(0)

    def do_round() -> Round:
        started = time.perf_counter()
        names = reference.sample_names(params, generator, task.amount, MAX_LENGTH)
        seconds = time.perf_counter() - started
        characters = float(sum(len(name) + 1 for name in names))
        is_stream = WORKS[task.work].unit == "characters"
        amount = characters if is_stream else float(len(names))
        return Round(seconds, amount, characters, characters / len(names) - 1)

    return do_round


def scoring(task: Task) -> Any:
    """Compute the log-probability of names, one character after the other."""
    names, vocab = read_data(task)
    names_ids = [vocab.encode(name).tolist() for name in repeated(names, task.amount)]
    params = trained_params(task)
    (layer,), readout = params["layers"], params["readout"]
    characters = float(sum(len(ids) + 1 for ids in names_ids))

    def nats(ids: list[int]) -> float:
        total, hidden = 0.0, np.zeros_like(layer["bias"])
        previous: int | None = None
        for target in [*ids, vocab.newline]:
            argument = hidden @ layer["recurrent_kernel"] + layer["bias"]
            if previous is not None:
                argument += layer["input_kernel"][previous]
            hidden = np.tanh(argument)
            logits = hidden @ readout["kernel"] + readout["bias"]
            logits -= logits.max()
            total += float(np.log(np.exp(logits).sum()) - logits[target])
            previous = target
        return total

    def do_round() -> Round:
        started = time.perf_counter()
        totals = [nats(ids) for ids in names_ids]
        seconds = time.perf_counter() - started
        return Round(seconds, task.amount, characters, float(np.mean(totals)))

    return do_round
