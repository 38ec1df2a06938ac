"""Training whose products have factors in bfloat16 ends where float32's does."""

from dataclasses import replace

import jax

from dinojax.config import TrainConfig
from dinojax.data.corpus import bundled_names, read_names
from dinojax.evaluation.losses import summarize
from dinojax.runs.description import describe
from dinojax.runs.experiment import make_experiment
from dinojax.training import loop

CONFIG = TrainConfig(
    "packed", cell="lstm", hidden_size=32, batch_size=32, window=32, loss="mean", optimizer="adam",
    learning_rate=1e-2, clip_value=0.0, clip_norm=1.0, validation_fraction=0.2, steps=150,
    devices=1,
)  # fmt: skip


def validated(config):
    """Loss of held-out names in nats a character, and its standard error over the names."""
    experiment = make_experiment(*describe(config, read_names(bundled_names()).data))
    progress = loop.run(
        experiment.train_step,
        experiment.initial_state(None),
        experiment.dataset,
        steps=config.steps,
    )
    *_, last = progress
    figures = summarize(experiment.evaluate(last.state.params))
    return figures["nats_per_character"], figures["standard_error"]


def test_the_loss_is_within_a_tenth_of_a_standard_error_of_that_of_float32():
    with jax.numpy_dtype_promotion("standard"):
        loss, error = validated(CONFIG)
        in_bfloat16, _ = validated(replace(CONFIG, dtype="bfloat16"))
    # It has learned more than how frequent each character is, which costs 2.8 nats.
    assert loss < 2.1
    assert 0 < error < 0.05
    assert in_bfloat16 != loss
    # It was 0.01 of it; with factors rounded to float8_e4m3fn it was 0.19.
    assert abs(in_bfloat16 - loss) < 0.1 * error
