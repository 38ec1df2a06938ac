import jax
import jax.numpy as jnp
import numpy as np
import optax

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
