"""PyTorch's layout of parameters, in memory and in safetensors files.

Where PyTorch is not installed, its modules are replaced by arrays with their names and shapes, and
its layers by those of `numpy_reference`.
"""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.config import OF_THE_MODEL, TrainConfig
from dinojax.data.vocab import Vocab
from dinojax.interchange import safetensors as files
from dinojax.interchange.imported import Imported, run_config
from dinojax.interchange.torch import MODULES, NUM_GATES, from_state_dict, to_state_dict
from dinojax.models.trained import Trained
from dinojax.presets import PRESETS
from dinojax.runs.description import build_model

from numpy_reference import gru_step, lstm_step

VOCAB = Vocab("\nabcde")
HIDDEN = 4
IDS = [1, 3, 3, 0, 5, 2]
CELLS = list(MODULES)


def tensors_of(cell, num_layers=1, *, embedding=0, modules=("rnn", "fc", "emb"), seed=0):
    """A state_dict of random tensors."""
    generator = np.random.default_rng(seed)
    recurrent, linear, embedded = modules
    rows, tensors = NUM_GATES[cell] * HIDDEN, {}

    def draw(name, *shape):
        tensors[name] = generator.normal(size=shape).astype(np.float32)

    if embedding:
        draw(f"{embedded}.weight", VOCAB.size, embedding)
    for i in range(num_layers):
        size = HIDDEN if i else embedding or VOCAB.size
        draw(f"{recurrent}.weight_ih_l{i}", rows, size)
        draw(f"{recurrent}.weight_hh_l{i}", rows, HIDDEN)
        draw(f"{recurrent}.bias_ih_l{i}", rows)
        draw(f"{recurrent}.bias_hh_l{i}", rows)
    draw(f"{linear}.weight", VOCAB.size, HIDDEN)
    draw(f"{linear}.bias", VOCAB.size)
    return tensors


def expected_logits(cell, tensors, num_layers, embedding):
    """Logits [time, vocab] by the equations of PyTorch's documentation, in float64."""
    tensors = {name: tensor.astype(float) for name, tensor in tensors.items()}
    xs = tensors["emb.weight"][IDS] if embedding else np.eye(VOCAB.size)[IDS]
    for i in range(num_layers):
        w_x, w_h, b_x, b_h = (
            np.split(tensors[f"rnn.{part}_l{i}"], NUM_GATES[cell])
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        names = {"vanilla": "n", "gru": "rzn", "lstm": "ifgo"}[cell]
        # The reset gate multiplies b_hn, so that it cannot join the other bias.
        gates = {
            name: {
                "input_kernel": w_x[g].T,
                "recurrent_kernel": w_h[g].T,
                "bias": b_x[g] if (cell, name) == ("gru", "n") else b_x[g] + b_h[g],
            }
            for g, name in enumerate(names)
        }
        h = memory = np.zeros(HIDDEN)
        outputs = []
        for x in xs:
            if cell == "gru":
                h = gru_step(gates, b_h[2], h, x)
            elif cell == "lstm":
                memory, h = lstm_step(gates, memory, h, x)
            else:
                (gate,) = gates.values()
                h = np.tanh(x @ gate["input_kernel"] + h @ gate["recurrent_kernel"] + gate["bias"])
            outputs.append(h)
        xs = np.array(outputs)
    return xs @ tensors["fc.weight"].T + tensors["fc.bias"]


def our_logits(settings, params):
    model = build_model(TrainConfig(**settings), VOCAB)
    return model.unroll(params, model.initial_state(()), jnp.asarray(IDS))[1]


@pytest.mark.parametrize("embedding", [0, 3, HIDDEN])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_foreign_state_dict_computes_what_it_did(cell, num_layers, embedding):
    tensors = tensors_of(cell, num_layers, embedding=embedding)
    settings, params = from_state_dict(tensors)
    assert settings == {"cell": cell, "num_layers": num_layers, "hidden_size": HIDDEN}
    expected = expected_logits(cell, tensors, num_layers, embedding)
    np.testing.assert_allclose(our_logits(settings, params), expected, atol=2e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_torch_itself_agrees(cell):
    torch = pytest.importorskip("torch")
    for num_layers in (1, 2):
        tensors = tensors_of(cell, num_layers, embedding=3, modules=("rnn", "decoder", "encoder"))
        model = torch.nn.ModuleDict(
            {
                "encoder": torch.nn.Embedding(VOCAB.size, 3),
                "rnn": getattr(torch.nn, MODULES[cell])(3, HIDDEN, num_layers, batch_first=True),
                "decoder": torch.nn.Linear(HIDDEN, VOCAB.size),
            }
        )
        model.load_state_dict({name: torch.tensor(each) for name, each in tensors.items()})
        with torch.no_grad():
            outputs, _ = model["rnn"](model["encoder"](torch.tensor([IDS])))
            expected = model["decoder"](outputs)[0].numpy()
        found = our_logits(*from_state_dict(tensors))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_there_and_back_is_the_same_bits(cell, tmp_path):
    model = build_model(TrainConfig(cell=cell, num_layers=2, hidden_size=HIDDEN), VOCAB)
    params = jax.tree.map(np.array, model.init(jax.random.key(0)))
    for layer in params["layers"]:
        layer["bias"][0] = -0.0
        if cell == "gru":
            layer["candidate_bias"] += 0.5
    pytest.importorskip("safetensors")
    config = TrainConfig(cell=cell, num_layers=2, hidden_size=HIDDEN, lowercase=False, seed=3)
    for name, content in files.files(Trained(model, params, VOCAB), config).items():
        (tmp_path / name).write_bytes(content)
    found = files.read(tmp_path / "model.safetensors")
    model_settings = {name: getattr(config, name) for name in OF_THE_MODEL}
    assert (found.settings, found.trained_with) == (model_settings, config)
    assert found.vocab == VOCAB
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    for ours, back in zip(jax.tree.leaves(params), jax.tree.leaves(found.params), strict=True):
        assert (ours.dtype, ours.shape, ours.tobytes()) == (back.dtype, back.shape, back.tobytes())
        assert back.flags.c_contiguous
    loaded = files.load(tmp_path / "model.safetensors")
    assert loaded.vocab == VOCAB


def test_arrays_are_contiguous():
    """safetensors writes the memory of an array, whatever its strides are."""
    model = build_model(TrainConfig(cell="gru", hidden_size=HIDDEN), VOCAB)
    params = model.init(jax.random.key(0))
    reversed_params = jax.tree.map(lambda x: np.asarray(x)[::-1], params)
    for tree in params, reversed_params:
        assert all(tensor.flags.c_contiguous for tensor in to_state_dict(tree).values())


def test_parts_that_may_be_missing_or_have_another_name():
    tensors = tensors_of("lstm", modules=("net.lstm", "head.out", "e"), embedding=3)
    without = {x: t for x, t in tensors.items() if "bias" not in x}
    zeros = {x: t * ("bias" not in x) for x, t in tensors.items()}
    cell = {x.replace("_l0", ""): t for x, t in tensors.items()}
    for one, other in (without, zeros), (cell, tensors):
        left, right = (jax.tree.leaves(from_state_dict(each)) for each in (one, other))
        assert all(map(np.array_equal, left, right))
    for dtype in (np.float16, jnp.bfloat16, np.float64):
        _, params = from_state_dict({x: t.astype(dtype) for x, t in tensors.items()})
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def changed(tensors, **changes):
    """`tensors` without those that become None and with new ones; "__" stands for a point."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return {x: t for x, t in (tensors | changes).items() if t is not None}


LSTM = tensors_of("lstm", 2)
SQUARE = tensors_of("vanilla", embedding=HIDDEN)
REFUSED = {
    "empty": ({}, "one nn.RNN, nn.GRU or nn.LSTM, not 0; got no tensor"),
    "bidirectional": (changed(LSTM, rnn__weight_ih_l0_reverse=np.ones(3)), "not bidirectional"),
    "projection": (changed(LSTM, rnn__weight_hr_l0=np.ones((2, 3))), "proj_size"),
    "two": (LSTM | tensors_of("gru", modules=("gru", "fc", "")), "nn.LSTM, not 2"),
    "integers": (changed(LSTM, fc__bias=np.arange(6)), "fc.bias: expected floating-point numbers"),
    "infinite": (changed(LSTM, fc__bias=np.full(6, np.inf)), "fc.bias: expected finite numbers"),
    "too large": (changed(LSTM, fc__bias=np.full(6, 1e300)), "fc.bias: expected finite numbers"),
    "gates": (changed(LSTM, rnn__weight_hh_l1=np.ones((8, 4))), "layer 1: expected 1, 3 or 4"),
    "bias": (changed(LSTM, rnn__bias_ih_l1=np.ones(5)), "layer 1: expected 1, 3 or 4 gates"),
    "square bias": (changed(LSTM, rnn__bias_ih_l1=np.ones((16, 16))), "layer 1: expected 1, 3"),
    "number": (changed(LSTM, fc__weight=np.ones(())), r"one nn.Linear \[vocab, 4\]"),
    "missing": (changed(LSTM, rnn__weight_ih_l0=None), "layer 0: expected matrices"),
    "gap": ({x.replace("l1", "l2"): t for x, t in LSTM.items()}, "layer 1: expected matrices"),
    "sizes": (changed(LSTM, rnn__weight_ih_l1=np.ones((16, 5))), "layers of one kind and size"),
    "no linear": (changed(LSTM, fc__weight=None, fc__bias=None), r"one nn.Linear \[vocab, 4\]"),
    "tied": (
        changed(tensors_of("lstm", embedding=3), emb__weight=None),
        r"unless vocab is 3, one nn.Embedding \[vocab, 3\]",
    ),
    "norm": (changed(LSTM, norm__weight=np.ones(4), norm__bias=np.ones(4)), "no other module"),
    "three": (changed(LSTM, a__weight=np.ones((6, 6)), b__weight=np.ones((6, 4))), "no other"),
    "ambiguous": (changed(SQUARE, fc__bias=None), "cannot tell which is which"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_models_are_refused_by_name(case):
    tensors, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        from_state_dict(tensors)
    assert all(name in str(caught.value) for name in list(tensors)[:20])
    assert len(str(caught.value)) < 1500


@pytest.fixture
def exported(tmp_path):
    pytest.importorskip("safetensors")
    config = TrainConfig(hidden_size=HIDDEN)
    model = build_model(config, VOCAB)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    for name, content in files.files(Trained(model, params, VOCAB), config).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"x" * 100, "model.safetensors: "),
        ("model.safetensors", b"", "model.safetensors: "),
        ("config.json", b"[1]", "config.json: expected a JSON object"),
        ("config.json", b"[" * 10**5, "config.json: expected a JSON object"),
        ("config.json", b'{"model_type": "gpt2"}', "config.json: unknown setting 'model_type'"),
        ("config.json", b'{"hidden_size": 5}', "config.json: hidden_size is 5, .* is 4"),
        ("vocab.json", b'{"a": 0}', "vocab.json: expected the characters"),
        ("vocab.json", b'{"characters": 3}', "vocab.json: expected the characters"),
        ("vocab.json", rb'{"characters": "\nabcaa"}', "vocab.json: expected 6 different"),
        ("vocab.json", rb'{"characters": "abcdef"}', "vocab.json: .* one of them newline, got"),
        ("vocab.json", rb'{"characters": "\nabcd\ud800"}', "vocab.json: .* got a surrogate"),
        ("vocab.json", rb'{"characters": "\nabc"}', "vocab.json: expected 6 .* 4 in all"),
        ("vocab.json", b"\xff", "vocab.json: expected a JSON object"),
        ("vocab.json", b'{"a": ' + b"9" * 5000 + b"}", "vocab.json: expected a JSON object"),
        ("config.json", b"9" * 5000, "config.json: expected a JSON object"),
    ],
)
def test_damaged_or_foreign_files_are_refused(exported, file, content, message):
    (exported / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read(exported / "model.safetensors")


def test_rounds_that_the_tensors_cannot_hold_are_refused(tmp_path):
    pytest.importorskip("safetensors")
    config = TrainConfig(cell="lstm", hidden_size=HIDDEN)
    params = jax.tree.map(np.asarray, build_model(config, VOCAB).init(jax.random.key(0)))
    written = files.files(Trained(build_model(config, VOCAB), params, VOCAB), config)
    for name, content in written.items():
        (tmp_path / name).write_bytes(content.replace(b'rounds": 0', b'rounds": 2'))
    with pytest.raises(ValueError, match=r"config\.json: mogrifier_rounds is 2, .* is 0"):
        files.read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("preset", [None, "names"])
def test_a_model_of_others_has_no_rounds_and_no_average_with_a_trigger(preset, monkeypatch):
    more = {"mogrifier_rounds": 4, "average_share": 0.0, "average_trigger": 2}
    config = replace(PRESETS["names"], **more)
    monkeypatch.setitem(PRESETS, "names", config)
    settings = {"cell": "lstm", "num_layers": 1, "hidden_size": HIDDEN}
    trained_with = replace(config, **settings, mogrifier_rounds=0)
    imported = Imported(settings, {}, None, None if preset else trained_with)
    found = run_config(imported, preset)
    assert found == replace(trained_with, average_trigger=0, validation_fraction=0.0)


def test_numbers_of_other_types_are_read_exactly_or_refused(tmp_path):
    pytest.importorskip("safetensors")
    tensors, file = tensors_of("lstm"), tmp_path / "model.safetensors"

    def write(dtype, numbers):
        """The format: the length of a header in JSON, the header, and the numbers."""
        header, content = {}, b""
        for name, each in numbers.items():
            ends = [len(content), len(content) + each.nbytes]
            header[name] = {"dtype": dtype, "shape": each.shape, "data_offsets": ends}
            content += each.tobytes()
        described = json.dumps(header).encode()
        file.write_bytes(len(described).to_bytes(8, "little") + described + content)

    for dtype, kind in {"BF16": jnp.bfloat16, "F16": "f2", "F32": "f4", "F64": "f8"}.items():
        numbers = {name: each.astype(kind) for name, each in tensors.items()}
        write(dtype, numbers)
        _, expected = from_state_dict({x: each.astype(np.float32) for x, each in numbers.items()})
        jax.tree.map(np.testing.assert_array_equal, files.read(file).params, expected)
    for dtype, size in {"F8_E4M3": 1, "I64": 8, "BOOL": 1}.items():
        write(dtype, {"fc.weight": np.zeros((6, 4), f"V{size}")})
        says = f"model.safetensors: fc.weight: expected numbers of .* BF16, got {dtype}"
        with pytest.raises(ValueError, match=says):
            files.read(file)
    write("F4", {"fc.weight": np.zeros((6, 4), "V1")})
    with pytest.raises(ValueError, match=r"model.safetensors: "):
        files.read(file)


def test_characters_may_stand_in_any_order(exported):
    theirs, text = "c\neabd", "bead\nc"
    file, vocab_file = exported / "model.safetensors", exported / "vocab.json"
    in_order = files.read(file)
    vocab_file.write_text(json.dumps({"characters": theirs}))
    found = files.read(file)
    assert found.vocab == VOCAB
    # The same numbers with the ids that they were written for.
    model = build_model(TrainConfig(**in_order.settings), VOCAB)
    ids = np.array([theirs.index(character) for character in text])
    start = model.initial_state(())
    _, expected = model.unroll(in_order.params, start, ids)
    _, logits = model.unroll(found.params, start, VOCAB.encode(text))
    for i, character in enumerate(theirs):
        ours = VOCAB.characters.index(character)
        np.testing.assert_allclose(logits[:, ours], expected[:, i], atol=1e-6)
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(found.params))


def test_without_the_files_beside_it_a_model_has_no_characters(exported):
    from safetensors.numpy import save

    (exported / "config.json").unlink()
    (exported / "vocab.json").unlink()
    found = files.read(exported / "model.safetensors")
    config = TrainConfig(cell="vanilla", num_layers=1, hidden_size=HIDDEN)
    assert found.settings == {name: getattr(config, name) for name in OF_THE_MODEL}
    assert (found.vocab, found.trained_with) == (None, None)
    with pytest.raises(ValueError, match=re.escape("expected vocab.json beside it")):
        files.load(exported / "model.safetensors")
    deep = exported / "deep.safetensors"
    deep.write_bytes(save(tensors_of("vanilla", 101)))
    with pytest.raises(
        ValueError, match=r"deep.safetensors: num layers: expected .* to 100, got 101"
    ):
        files.read(deep)
    with pytest.raises(IsADirectoryError):
        files.read(exported)
    with pytest.raises(FileNotFoundError):
        files.read(exported / "none.safetensors")
    assert json.loads(files.vocab_content(VOCAB)) == {"characters": VOCAB.characters}
