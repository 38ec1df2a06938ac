"""What does not fit into memory is refused before it is tried."""

import jax
import pytest

from dinojax.presets import resolve
from dinojax.runs import checkpoint, memory
from dinojax.runs.description import describe
from dinojax.runs.experiment import make_experiment
from dinojax.training.step import train_steps


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_size": 10_000, "num_layers": 100},
        {"hidden_size": 10_000, "cell": "lstm", "optimizer": "adam", "num_layers": 9},
        {"batch_size": 100_000, "batches": "packed", "window": 100_000},
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_figures(given):
    described = describe(resolve(given=given), ["ada", "bob"] * 60_000)
    with pytest.raises(ValueError, match=r"takes at least [\d,.]+ GB .* there are .* choose fewer"):
        make_experiment(*described)


@pytest.mark.parametrize("preset", ["dinos", "names"])
def test_the_estimate_is_a_close_lower_bound_of_what_xla_takes(preset, monkeypatch):
    given = {"hidden_size": 128, "validation_fraction": 0.0, "devices": 1, "num_layers": 1}
    config = resolve(preset, given=given | ({"batch_size": 64} if preset == "names" else {}))
    experiment = make_experiment(*describe(config, ["ada", "bob"] * 200))
    state = jax.eval_shape(experiment.initial_state, None)
    examples = experiment.dataset.examples
    order = experiment.dataset.arrange(jax.numpy.arange(experiment.dataset.num_shuffled))[:1]
    loop = jax.jit(lambda *args: train_steps(experiment.train_step, *args))
    with jax.numpy_dtype_promotion("standard"):
        used = loop.lower(state, examples, order, 1).compile().memory_analysis()
    of_data = sum(x.nbytes for x in (*examples, order))
    taken = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
    num_characters = examples.inputs[..., order[0]].size
    least = taken - of_data
    monkeypatch.setattr(memory, "machine_memory", lambda: least)
    memory.check_training(state, num_characters)
    monkeypatch.setattr(memory, "machine_memory", lambda: 0.6 * least)
    with pytest.raises(ValueError, match="takes at least"):
        memory.check_training(state, num_characters)
    # Devices of a CPU share its memory, and each has all parameters.
    monkeypatch.setattr(memory, "machine_memory", lambda: least)
    with pytest.raises(ValueError, match="takes at least"):
        memory.check_training(state, num_characters, num_devices=64)


def test_the_machine_or_its_container_says_how_much_there_is(tmp_path, monkeypatch):
    there_is = memory.machine_memory()
    assert 2**28 < there_is < 2**50
    limits = [tmp_path / name for name in ("none", "max", "limit")]
    limits[1].write_text("max\n")
    limits[2].write_text("1000000\n")
    monkeypatch.setattr(memory, "LIMITS", limits[:2])
    assert memory.machine_memory() >= there_is
    monkeypatch.setattr(memory, "LIMITS", limits)
    assert memory.machine_memory() == 1_000_000


def test_a_checkpoint_that_is_larger_than_the_memory_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    with open(path, "wb") as file:
        file.truncate(2 * 10**9)
    monkeypatch.setattr(checkpoint, "machine_memory", lambda: 10**9)
    with pytest.raises(ValueError, match=r"has 2\.0 GB, more than the 1\.0 GB of memory"):
        checkpoint.load(path)
