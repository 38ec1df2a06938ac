"""A model as StableHLO: functions with the parameters inside, which need no source of ours.

`jax.export` writes them for CPUs, NVIDIA GPUs and TPUs. A JAX that is up to six months newer reads
them; like this one, it needs the package flatbuffers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from dinojax.interchange.safetensors import VOCAB_FILE, vocab_content
from dinojax.models.trained import Trained
from dinojax.sampling.controls import Controls
from dinojax.sampling.draw import read_prompt, sample_names, sample_text

STEP_FILE, SAMPLE_FILE = "step.bin", "sample.bin"
PLATFORMS = "cpu", "cuda", "tpu"
TEXT_LENGTH = 400

_CODE = """\
import json
from pathlib import Path

import jax
import numpy as np
from jax import export

folder = Path({folder!a})
step, sample = (
    jax.jit(export.deserialize((folder / name).read_bytes()).call)
    for name in ("{step_file}", "{sample_file}")
)
characters = json.loads((folder / "{vocab_file}").read_text("utf-8"))["characters"]


def logits(text):
    # [len(text) + 1, vocab]: of each character and of what follows. The first id is no character.
    state, rows = [np.zeros((1, hidden), "float32") for hidden in {sizes}], []
    for id in [{vocab}, *map(characters.index, text)]:
        state, row = step(state, np.array([id], "int32"))
        rows.append(row[0])
    return np.array(rows)


def samples(seeds, temperature=1.0):
    rows = sample(np.array(seeds, "uint32"), np.float32(temperature))
    return ["".join(characters[id] for id in row){end} for row in rows]
"""


def step_program(trained: Trained) -> bytes:
    """The function from a state and ids int32 [batch] to the new state and logits [batch, vocab].

    The state is a list of arrays [batch, hidden], zero at first. The batch may have any size.
    """
    model, params = trained.model, trained.params
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: model.initial_state((1,))))

    def step(state: Sequence[jax.Array], ids: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        new_state, logits = model.step(params, jax.tree.unflatten(structure, state), ids)
        return jax.tree.leaves(new_state), logits

    (batch,) = export.symbolic_shape("batch")
    state = [jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
    return _program(step, state, jax.ShapeDtypeStruct((batch,), jnp.int32))


def sample_program(trained: Trained, is_text: bool) -> bytes:
    """The function from seeds uint32 [num] and a temperature to ids [num, length] of new samples.

    Each seed gives one name, padded with newlines, or one text. There may be any number of seeds.
    """
    model, params, _, max_length = trained

    def write(seed: jax.Array, temperature: jax.Array) -> jax.Array:
        key, controls = jax.random.key(seed), Controls(temperature=temperature)
        if not is_text:
            return sample_names(key, params, model, 1, max_length, controls=controls).ids[0]
        beginning = read_prompt(params, model, jnp.zeros(0, int))
        return sample_text(key, params, model, beginning, TEXT_LENGTH, controls=controls)[1]

    (num,) = export.symbolic_shape("num")
    seeds = jax.ShapeDtypeStruct((num,), jnp.uint32)
    temperature = jax.ShapeDtypeStruct((), jnp.float32)
    return _program(jax.vmap(write, in_axes=(0, None)), seeds, temperature)


def files(trained: Trained, is_text: bool) -> dict[str, bytes]:
    """The files of a model by name."""
    return {
        STEP_FILE: step_program(trained),
        SAMPLE_FILE: sample_program(trained, is_text),
        VOCAB_FILE: vocab_content(trained.vocab),
    }


def code(trained: Trained, is_text: bool, folder: Path | str) -> str:
    """Lines of Python that load a model from its folder, compute logits and sample."""
    state = jax.eval_shape(lambda: trained.model.initial_state((1,)))
    return _CODE.format(
        folder=str(folder),
        step_file=STEP_FILE,
        sample_file=SAMPLE_FILE,
        vocab_file=VOCAB_FILE,
        sizes=[leaf.shape[-1] for leaf in jax.tree.leaves(state)],
        vocab=trained.vocab.size,
        end="" if is_text else '.split("\\n")[0]',
    )


def _program(function: Callable[..., Any], *arguments: Any) -> bytes:
    return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
