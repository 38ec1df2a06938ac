import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinojax.config import TrainConfig
from dinojax.training import optimizers


def test_figures_of_the_exercise_for_clipping():
    generator = np.random.RandomState(3)
    gradients = {
        name: jnp.asarray(generator.randn(*shape) * 10)
        for name, shape in {
            "Wax": (5, 3), "Waa": (5, 5), "Wya": (2, 5), "b": (5, 1), "by": (2, 1)
        }.items()
    }  # fmt: skip
    clipped, _ = optax.clip(10.0).update(gradients, optax.EmptyState())
    updates, _ = optimizers.clipped_sgd(1.0, 10.0).update(
        gradients, optimizers.clipped_sgd(1.0, 10.0).init(gradients)
    )
    for figures in (clipped, jax.tree.map(jnp.negative, updates)):
        assert figures["Waa"][1, 2] == 10
        assert figures["Wax"][3, 1] == -10
        np.testing.assert_allclose(figures["Wya"][1, 2], 0.29713815361, rtol=1e-6)
        assert figures["b"][4, 0] == 10
        np.testing.assert_allclose(figures["by"][1, 0], 8.45833407, rtol=1e-6)


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    config = TrainConfig(
        schedule="cosine", warmup=0.1, learning_rate=2.0, clip_value=0.0, steps=100
    )
    optimizer = optimizers.make_optimizer(config)
    state, rates = optimizer.init(jnp.zeros(())), []
    for _ in range(100):
        # Optax counts on promotion.
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update(jnp.ones(()), state)
        rates.append(-float(update))
    np.testing.assert_allclose(rates[:11], np.linspace(0, 2, 11), atol=1e-6)
    expected = 1 + np.cos(np.pi * np.arange(90) / 90)
    np.testing.assert_allclose(rates[10:], expected, atol=1e-5)


def test_the_learning_rate_falls_at_the_end_as_one_minus_a_root():
    config = TrainConfig(warmup=0.1, cooldown=0.2, learning_rate=2.0, steps=100)
    rates = [float(optimizers.make_schedule(config)(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:11], np.linspace(0, 2, 11), atol=1e-6)
    np.testing.assert_allclose(rates[10:81], 2)
    np.testing.assert_allclose(rates[80:], 2 * (1 - np.sqrt(np.arange(21) / 20)), atol=1e-6)
    assert not config.has_constant_rate
    for settings in ({"schedule": "cosine"}, {"warmup": 0.9}):
        with pytest.raises(ValueError, match=r"cooldown: "):
            TrainConfig(cooldown=0.2, **settings)


def test_a_run_with_a_warm_up_can_be_extended_however_short_it_is():
    params = {"kernel": jnp.zeros(2)}
    short, long = (
        optimizers.make_optimizer(TrainConfig(optimizer="adamw", warmup=0.05, steps=steps))
        for steps in (5, 100)
    )
    found, expected = (jax.tree.structure(x.init(params)) for x in (short, long))
    assert found == expected
    assert not TrainConfig(warmup=0.05, steps=5).has_constant_rate


def test_the_exercises_optimizer_is_clip_and_sgd():
    ours, plain = optimizers.make_optimizer(TrainConfig()), optimizers.clipped_sgd(0.01, 5.0)
    gradients = jnp.array([-9.0, 0.5, 7.0])
    for optimizer in (ours, plain):
        update, _ = optimizer.update(gradients, optimizer.init(gradients))
        np.testing.assert_allclose(update, [0.05, -0.005, -0.05])


def test_muon_updates_each_gate_of_hidden_matrices_orthogonally_and_others_as_adamw():
    config = TrainConfig(
        optimizer="muon", hidden_size=4, learning_rate=0.1, weight_decay=0.5, clip_value=0.0
    )
    generator = np.random.default_rng(0)
    shapes = {"bias": (8,), "input_kernel": (4, 8), "recurrent_kernel": (4, 8)}
    rounds = [{"down": (5, 4), "up": (4, 8), "bias": (8,)}]
    layers, readout = [shapes, {**shapes, "rounds": rounds}], {"bias": (5,), "kernel": (4, 5)}
    params, gradients = (
        jax.tree.map(
            lambda shape: jnp.asarray(generator.normal(size=shape), jnp.float32),
            {"layers": layers, "readout": readout},
            is_leaf=lambda x: isinstance(x, tuple),
        )
        for _ in range(2)
    )
    try:
        optimizer = optimizers.make_optimizer(config)
    except ValueError as error:
        assert f"needs a newer Optax than {optax.__version__}" in str(error)  # noqa: PT017
        return
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        adamw = optax.adamw(0.1, weight_decay=0.5, nesterov=True)
        as_adamw, _ = adamw.update(gradients, adamw.init(params), params)
    hidden = [(0, "recurrent_kernel"), (1, "input_kernel"), (1, "recurrent_kernel")]
    for layer, name in hidden:
        update, gradient, kernel = (x["layers"][layer][name] for x in (updates, gradients, params))
        as_adamw["layers"][layer][name] = update
        for gate in (slice(0, 4), slice(4, 8)):
            step = update[:, gate] / -0.1 - 0.5 * kernel[:, gate]
            left, _, right = np.linalg.svd(np.asarray(gradient[:, gate], np.float64))
            values = left.T @ step @ right.T / (0.2 * np.sqrt(4))
            assert np.all((np.diag(values) > 0.6) & (np.diag(values) < 1.3))
            np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, updates, as_adamw)
