"""How fast this machine trains and samples, measured for a moment."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dinojax import parallel
from dinojax.config import TrainConfig
from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.vocab import build_vocab
from dinojax.doctor.computations import drawn_params
from dinojax.doctor.machine import Finding
from dinojax.presets import PRESETS
from dinojax.runs.description import Part, build_model, describe
from dinojax.runs.experiment import make_experiment
from dinojax.runs.speed import Speed, measured_rate, training_speed
from dinojax.sampling.stream import on_each_device, stream_names

SECONDS = 0.4
"""How long each speed is measured."""
ELSEWHERE = "two cores of an AMD EPYC, Zen 5"
"""Where the speeds were measured that are shown for comparison."""
EXERCISE, LSTM, STREAM = 81_000, 182_000, 17_200_000
"""The speeds there, in steps, characters and characters a second."""
NUM_NAMES, MAX_LENGTH = 200_000, 50


def measure_speeds(seconds: float = SECONDS) -> Iterator[Finding]:
    """The speed of training by the exercise's recipe, of training an LSTM, and of sampling.

    Each runs on as many devices as in the commands `train` and `sample`. The time to compile does
    not count. Other programs that compute at the same time lower the speeds.
    """
    names = read_names(bundled_names()).data
    steps = _training(PRESETS["dinos"], names, seconds).steps
    yield _speed("the exercise", steps, "training steps a second", EXERCISE)
    characters = "abcdefghijklmnopqrstuvwxyz \n"
    ids = np.random.default_rng(0).choice(len(characters), 64 * 64 * 16)
    config = TrainConfig(
        "windows", cell="lstm", hidden_size=256, batch_size=64, optimizer="adam", loss="mean",
        clip_value=0.0,
    )  # fmt: skip
    text = "".join(np.array(list(characters))[ids])
    read = _training(config, text, seconds).characters
    yield _speed("LSTM of 256 units", read, "characters a second in training", LSTM)
    written = _sampling(names, seconds)
    yield _speed("stream of names", written, "characters a second", STREAM)


def _training(config: TrainConfig, data: Part, seconds: float) -> Speed:
    return training_speed(make_experiment(*describe(config, data)), seconds)


def _sampling(names: list[str], seconds: float) -> float:
    vocab = build_vocab(names)
    model = build_model(PRESETS["dinos"], vocab)
    num_devices = jax.device_count()
    mesh = parallel.make_mesh(num_devices)

    def write_share(key: jax.Array, params: Any) -> Any:
        return stream_names(key, params, model, NUM_NAMES // num_devices, MAX_LENGTH)

    write = jax.jit(lambda keys, params: on_each_device(keys, write_share, mesh, params))
    params = jax.device_put(drawn_params(model, 0.1))

    def characters() -> float:
        samples = write(keys, params)
        return float(np.asarray(samples.lengths).sum() + samples.lengths.size)

    keys = jax.random.split(jax.random.key(1), num_devices)
    characters()
    return measured_rate(characters, seconds)


def _speed(name: str, rate: float, unit: str, elsewhere: int) -> Finding:
    said = f"{rate:,.0f} {unit} ({ELSEWHERE}: {elsewhere:,})"
    return Finding(f"speed: {name}", "ok", said, {"rate": rate, "unit": unit})
