"""Models that Keras saved: every layout, every layer, and files that are to be refused."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from test_command import dinojax

from dinojax.data.vocab import Vocab, build_vocab
from dinojax.interchange import hdf5, keras
from dinojax.interchange.imported import start_run
from dinojax.models.trained import Trained
from dinojax.presets import resolve
from dinojax.runs import folder as runs
from dinojax.runs.description import Origin, build_model, describe
from dinojax.runs.experiment import make_experiment

import keras_writer
from conftest import USERS_ENVIRONMENT
from keras_writer import LAYOUTS, layer, make_model, write

VOCAB = Vocab("\nabcdef")
MODELS = {
    "lstm": {"kind": "LSTM", "gate": "hard_sigmoid", "num_layers": 2, "dropout": (0.5, 0.5)},
    "lstm without biases": {"kind": "LSTM", "use_bias": False, "softmax": "dense"},
    "gru": {"kind": "GRU", "reset_after": True, "num_layers": 2, "dropout": (0.2, 0.3)},
    "gru without biases": {"kind": "GRU", "reset_after": True, "use_bias": False},
    "gru as in the paper": {"kind": "GRU", "reset_after": False, "gate": "hard_sigmoid"},
    "gru of old": {"kind": "GRU", "embedding": 3},
    "simple": {"kind": "SimpleRNN", "embedding": 9, "num_layers": 2, "softmax": None},
}
SETTINGS = {
    "lstm": {"cell": "lstm", "gate": "hard_sigmoid", "num_layers": 2, "dropout": 0.5},
    "gru": {"cell": "gru", "gate": "sigmoid", "num_layers": 2, "dropout": 0.0},
    "gru as in the paper": {"cell": "gru_reset_before", "gate": "hard_sigmoid"},
    "gru of old": {"cell": "gru_reset_before", "gate": "sigmoid", "num_layers": 1},
    "simple": {"cell": "vanilla", "gate": "sigmoid", "num_layers": 2},
}


def saved(path, layers, layout="2", **how):
    """The path of a file that holds these layers."""
    file = path / f"model.{LAYOUTS[layout]}"
    write(file, layers, layout, **how)
    return file


def trained_of(imported):
    model = build_model(resolve("text", given=imported.settings), VOCAB)
    return Trained(model, imported.params, VOCAB)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_layer_computes_what_it_does_in_keras(name, tmp_path):
    layers = make_model(**MODELS[name])
    imported = keras.read(saved(tmp_path, layers))
    assert imported.vocab is None
    expected = SETTINGS.get(name, {}) | {"hidden_size": 5}
    assert {key: imported.settings[key] for key in expected} == expected
    model, params, *_ = trained_of(imported)
    # Zero vectors, at the start and later, do not reset the state.
    ids = np.array([7, 7, 3, 1, 0, 0, 6, 7, 2, 5])
    _, logits = jax.jit(model.unroll)(params, model.initial_state(()), ids)
    np.testing.assert_allclose(logits, keras_writer.logits(layers, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same(layout, tmp_path):
    layers = make_model("GRU", num_layers=2, reset_after=True, embedding=4, dropout=(0.1, 0.1))
    expected = keras.read(saved(tmp_path, layers))
    imported = keras.read(saved(tmp_path, layers, layout))
    assert imported.settings == expected.settings
    jax.tree.map(np.testing.assert_array_equal, imported.params, expected.params)


def changed(kind="LSTM", place=1, **config):
    """A model with other settings of a layer."""
    layers = make_model(kind, num_layers=2)
    layers[place]["config"] |= config
    return layers


def named(name):
    layers = make_model("LSTM")
    layers[1]["config"] |= {"name": name, "go_backwards": True}
    return layers


def renamed(kind, place=1):
    layers = make_model("LSTM")
    layers[place]["kind"] = kind
    return layers


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (
            renamed("Bidirectional"),
            "layer 'my_1' is a 'Bidirectional'; expected some of InputLayer, ",
        ),
        (renamed("Lambda", 2), "layer 'my_2' is a 'Lambda'"),
        (renamed("CuDNNLSTM"), "layer 'my_1' is a 'CuDNNLSTM'"),
        (changed(activation="relu"), "layer 'my_1': expected activation 'tanh', got 'relu'"),
        (
            changed(activation={"class_name": "f"}),
            "layer 'my_1': expected activation 'tanh', got {",
        ),
        (changed(go_backwards=True), "layer 'my_1': expected go_backwards False, got True"),
        (changed(return_state=True), "layer 'my_1': expected return_state False, got True"),
        (
            changed(recurrent_activation="tanh"),
            "expected recurrent_activation 'sigmoid' or 'hard_sigmoid' for",
        ),
        (
            changed(recurrent_activation="hard_sigmoid"),
            "that are all alike, got [{'cell': 'lstm', 'gate': 'hard",
        ),
        (
            changed(place=3, activation="relu"),
            "layer 'my_3': expected activation 'linear' or 'softmax', got",
        ),
        (
            changed(place=4, activation="elu"),
            "layer 'my_4': expected activation 'softmax', got 'elu'",
        ),
        (
            changed(place=3, activation="softmax"),
            "one softmax or none, got ['LSTM', 'LSTM', 'Dense', 'Activ",
        ),
        (changed(units=3), "that are all alike, got [{'cell'"),
        (changed(units=3)[2:], "kernel:0': expected float32[7, 20], got float32[5, 20]"),
        (changed(units="5"), "that are all alike"),
        (named("a\n\x1b[2J" * 9), "layer 'a\\n\\x1b[2J"),
        (make_model("GRU") + renamed("LSTM"), "an Embedding or none, recurrent layers, a Dense"),
        (make_model("LSTM")[:2], "an Embedding or none, recurrent layers, a Dense layer"),
        ([layer("InputLayer")], "an Embedding or none, recurrent layers, a Dense layer"),
        (
            [layer("Embedding", mask_zero=True), *make_model("LSTM")],
            "layer 'my_0': expected mask_zero False, got True",
        ),
        (
            [*make_model("LSTM", softmax=None), layer("Softmax", axis=1)],
            "layer 'my_3': expected axis -1, got 1",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(layers, says, tmp_path):
    file = saved(tmp_path, layers)
    with pytest.raises(ValueError, match="model") as caught:
        keras.read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hard_sigmoid_of_keras_3_is_another_function(tmp_path):
    layers = make_model("LSTM", gate="hard_sigmoid")
    with pytest.raises(
        ValueError, match=r"recurrent_activation 'sigmoid' for Keras '3\.8\.0', got 'h"
    ):
        keras.read(saved(tmp_path, layers, "3"))


def connected(change, layout="2-functional"):
    """The description of a Functional model, changed by a function of its list of layers."""
    model = keras_writer.described(make_model("LSTM", num_layers=2), layout)
    change(model["config"]["layers"], model["config"])
    return model


def skip_a_layer(layers, _):
    layers[3]["inbound_nodes"][0][0][0] = "my_1"


def use_twice(layers, _):
    layers[2]["inbound_nodes"] *= 2


def end_early(_, config):
    config["output_layers"] = [["my_3", 0, 0]]


def give_a_state(layers, _):
    layers[2]["inbound_nodes"][0]["kwargs"]["initial_state"] = [{"class_name": "tensor"}]


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("2-functional", skip_a_layer),
        ("2-functional", use_twice),
        ("2-functional", end_early),
        ("archive-functional", give_a_state),
    ],
)
def test_layers_that_are_not_a_chain_are_refused(layout, change, tmp_path):
    description = connected(change, layout)
    file = saved(tmp_path, make_model("LSTM", num_layers=2), layout, description=description)
    with pytest.raises(ValueError, match="expected layers that each read the one before, got oth"):
        keras.read(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class_name": "MyModel"}, "expected a Sequential or a Functional model, got 'MyModel'"),
        ({"config": None}, "is damaged, or not a model that Keras saved"),
        ({"config": []}, r"an Embedding or none, recurrent layers, .* got \[\]"),
    ],
)
def test_other_models_are_refused(change, says, tmp_path):
    description = keras_writer.described(make_model("LSTM"), "2") | change
    with pytest.raises(ValueError, match=says):
        keras.read(saved(tmp_path, make_model("LSTM"), description=description))


def test_a_class_of_ones_own_is_refused(tmp_path):
    description = keras_writer.described(make_model("LSTM"), "archive")
    description["config"]["layers"][1]["module"] = "mine"
    file = saved(tmp_path, make_model("LSTM"), "archive", description=description)
    with pytest.raises(ValueError, match=r"layer 'my_1' is a 'mine\.LSTM'; expected some of"):
        keras.read(file)


KERNEL = "model_weights/my_1/my_1/cell/kernel:0"


def soft_link(file, secret):
    file[KERNEL] = h5py.SoftLink("/model_weights/my_1/my_1/cell/recurrent_kernel:0")


def external_link(file, secret):
    file[KERNEL] = h5py.ExternalLink(secret, "numbers")


def linked_group(file, secret):
    del file["model_weights/my_1"]
    file["model_weights/my_1"] = h5py.ExternalLink(secret, "/")


def external_storage(file, secret):
    file.create_dataset(KERNEL, (7, 20), "f4", external=[(secret, 0, 560)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((7, 20), "f4")
    layout[:] = h5py.VirtualSource(secret, "numbers", (7, 20))
    file.create_virtual_dataset(KERNEL, layout)


def compressed(file, secret):
    file.create_dataset(KERNEL, data=np.ones((7, 20), "f4"), compression="gzip")


def in_chunks(file, secret):
    """A filter might make more of a chunk than the array should hold."""
    file.create_dataset(KERNEL, data=np.ones((7, 20), "f4"), chunks=(7, 20))


def huge(file, secret):
    file.create_dataset(KERNEL, (7, 2**45), "f4")


def never_written(file, secret):
    file.create_dataset(KERNEL, (7, 20), "f4")


def whole_numbers(file, secret):
    file[KERNEL] = np.ones((7, 20), int)


def objects(file, secret):
    file.create_dataset(KERNEL, (7, 20), h5py.ref_dtype)


def not_finite(file, secret):
    file[KERNEL] = np.full((7, 20), np.nan, "f4")


def too_large_for_float32(file, secret):
    file[KERNEL] = np.full((7, 20), 1e300)


def missing(file, secret):
    pass


def many_groups(file, secret):
    group = file["model_weights/my_1"]
    group.move("my_1", "/elsewhere")
    # A group that holds itself.
    group["my_1"] = group


def many_members(file, secret):
    for i in range(hdf5.MAX_MEMBERS + 1):
        file.create_group(f"model_weights/my_1/{i}")


def texts(file, secret):
    file.attrs["model_config"] = ["{}", "{}"]


def a_number(file, secret):
    file.attrs["model_config"] = 7


def no_json(file, secret):
    file.attrs["model_config"] = "{'class_name'"


def nested_json(file, secret):
    file.attrs["model_config"] = "[" * 100_000


def a_long_number(file, secret):
    file.attrs["model_config"] = f'{{"class_name": {"1" * 5000}}}'


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (soft_link, "kernel:0' is a link; expected what it leads to"),
        (external_link, "kernel:0' is a link; expected what it leads to"),
        (linked_group, "my_1' is a link; expected what it leads to"),
        (external_storage, "expected numbers in one piece, not compressed, in the file"),
        (virtual, "expected numbers in one piece, not compressed, in the file"),
        (compressed, "expected numbers in one piece, not compressed, in the file"),
        (in_chunks, "expected numbers in one piece, not compressed, in the file"),
        (huge, "expected float32[7, 20], got float32[7, 35184372088832]"),
        (never_written, "expected numbers in one piece, not compressed, in the file"),
        (whole_numbers, "expected float32[7, 20], got int64[7, 20]"),
        (objects, "expected float32[7, 20], got object[7, 20]"),
        (not_finite, "expected finite numbers, got some that are not"),
        (too_large_for_float32, "expected finite numbers, got some that are not"),
        (missing, "expected 'kernel', which is not there"),
        (many_groups, "expected up to 10 groups within each other"),
        (many_members, "expected a group of up to 1,000 members"),
        (texts, "expected the attribute model_config as a text, got another type"),
        (a_number, "expected the attribute model_config as a text, got another type"),
        (no_json, "is damaged, or not a model that Keras saved"),
        (nested_json, "is damaged, or not a model that Keras saved"),
        (a_long_number, "is damaged, or not a model that Keras saved"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(harm, says, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as other:
        other["numbers"] = np.ones((7, 20), "f4")
    file = saved(tmp_path, make_model("LSTM"))
    with h5py.File(file, "a") as content:
        del content[KERNEL]
        harm(content, secret)
    with pytest.raises(ValueError, match="model") as caught:
        keras.read(file)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["2", "archive"])
def test_a_truncated_file_is_refused_in_one_line(layout, tmp_path):
    file = saved(tmp_path, make_model("LSTM"), layout)
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="model") as caught:
            keras.read(file)
        assert "\n" not in str(caught.value)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    for file in tmp_path / "pipe.h5", Path("/dev/zero"):
        with pytest.raises(OSError, match="expected a regular file, got a pipe or a device"):
            keras.read(file)


def test_an_archive_is_not_inflated(tmp_path):
    file = saved(tmp_path, make_model("LSTM"), "archive")
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, each in content.items():
            kind = zipfile.ZIP_DEFLATED if name == "model.weights.h5" else zipfile.ZIP_STORED
            archive.writestr(name, each, kind)
        archive.writestr("more", bytes(10**6))
    with pytest.raises(ValueError, match=r"expected model\.weights\.h5 whole and not compressed"):
        keras.read(file)


TEXT = "fade a cab\n" * 300
VOCAB_OF_TEXT = build_vocab([TEXT])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in a folder that starts from a model of Keras, and the layers of that model."""
    place = tmp_path_factory.mktemp("keras")
    layers = make_model("LSTM", gate="hard_sigmoid", num_symbols=VOCAB_OF_TEXT.size)
    imported = keras.read(saved(place, layers))
    config = resolve("text", given=imported.settings)
    start_run(imported, place / "run", config, TEXT, source="text.txt", init_from="model.h5")
    return runs.load_run(place / "run"), layers


def test_an_imported_model_is_an_ordinary_run(run):
    run, layers = run
    assert (run.step, run.description.data, run.description.init_from) == (
        0,
        "text.txt",
        "model.h5",
    )
    assert (run.vocab, run.config.gate) == (VOCAB_OF_TEXT, "hard_sigmoid")
    np.testing.assert_array_equal(
        run.params["layers"][0]["recurrent_kernel"], layers[1]["arrays"]["recurrent_kernel"]
    )
    # A later run has its model and starts from its parameters.
    config = resolve("text", earlier=run.config)
    described = describe(config, TEXT, Origin("", run.vocab, "", (), ()))
    state = make_experiment(*described).initial_state(run.params)
    jax.tree.map(np.testing.assert_array_equal, state.params, run.params)


def test_an_imported_run_can_be_resumed_with_a_fresh_optimizer(run):
    run, _ = run
    folder = run.checkpoint.parent
    last, arrays = runs.load_checkpoint(folder, "last")
    part = {"train": runs.read_part(folder, run.description, "train")}
    _, _, dataset = describe(run.config, part["train"], Origin("", run.vocab, "", (), ()))
    experiment = make_experiment(run.description, part, dataset)
    like = jax.eval_shape(experiment.initial_state, None)
    state = runs.restore_state(last, arrays, like)
    fresh = experiment.initial_state(run.params)
    jax.tree.map(np.testing.assert_array_equal, state.optimizer_state, fresh.optimizer_state)


def test_the_data_must_have_as_many_characters_as_the_model(tmp_path):
    imported = keras.read(saved(tmp_path, make_model("LSTM")))
    config = resolve("text", given=imported.settings)
    says = "the model reads 7 different characters, the data have 9, newline included; expected"
    with pytest.raises(ValueError, match=says):
        start_run(imported, tmp_path / "run", config, TEXT.replace("c", "C!"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_kept(run):
    run, _ = run
    with pytest.raises(ValueError, match="holds a run; choose another folder, or overwrite it"):
        start_run(keras.Imported({}, run.params, None), run.checkpoint.parent, run.config, TEXT)


def test_bad_input_is_one_line(tmp_path):
    file = saved(tmp_path, make_model("LSTM"))
    (tmp_path / "text.txt").write_text(TEXT)
    words = "import", file, "--data=text.txt", "--lowercase", "--out=run"
    result = dinojax(*words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    says = "dinojax import: error: the model reads 7 different characters, the data have 8, newline"
    note, error = result.stderr.splitlines()
    assert note == "dinojax import: note: text.txt: it looks like a list of names, not a text"
    assert error.startswith(says)
    assert not (tmp_path / "run").exists()


def test_without_h5py_the_remedy_is_named(tmp_path):
    (tmp_path / "h5py.py").write_text("raise ModuleNotFoundError('h5py')")
    result = dinojax("import", "a.h5", "--data=a.txt", "--out=a", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    says = "dinojax import: error: h5py is missing; install it: pip install 'dinojax[keras]'\n"
    assert result.stderr == says


FROM_KERAS = """
import sys
import keras
import numpy as np

layers, folder, (kind, settings) = keras.layers, sys.argv[1], {model}
stack = [layers.Embedding(7, 3)] if settings.pop("embedding", 0) else []
shape = (None,) if stack else (None, 7)
for _ in range(2):
    stack += [getattr(layers, kind)(5, return_sequences=True, **settings), layers.Dropout(0.5)]
stack += [layers.Dense(7, activation="softmax")]
sequential = keras.Sequential([keras.Input(shape), *stack])
first = last = keras.Input(shape)
for layer in stack:
    last = layer(last)
generator = np.random.default_rng(0)
sequential.set_weights([generator.normal(0, 0.7, x.shape) for x in sequential.get_weights()])
ids = np.array([[3, 1, 0, 0, 6, 2, 5]])
inputs = ids if stack[0].__class__ is layers.Embedding else np.eye(7)[ids]
np.save(f"{{folder}}/probabilities.npy", sequential.predict(inputs, verbose=0)[0])
for name, model in ("sequential", sequential), ("functional", keras.Model(first, last)):
    model.save(f"{{folder}}/{{name}}.h5")
    model.save(f"{{folder}}/{{name}}.keras")
"""


@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
@pytest.mark.parametrize(
    "model",
    [
        ("LSTM", {"recurrent_dropout": 0.1}),
        ("GRU", {"reset_after": True}),
        ("GRU", {"reset_after": False, "use_bias": False}),
        ("SimpleRNN", {"embedding": 3}),
    ],
    ids=str,
)
def test_files_that_keras_itself_has_saved(model, tmp_path):
    code = FROM_KERAS.format(model=model)
    environment = USERS_ENVIRONMENT | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment)
    for file in "sequential.h5", "functional.h5", "sequential.keras", "functional.keras":
        network, params, *_ = trained_of(keras.read(tmp_path / file))
        ids = np.array([3, 1, 0, 0, 6, 2, 5])
        _, logits = jax.jit(network.unroll)(params, network.initial_state(()), ids)
        expected = np.load(tmp_path / "probabilities.npy")
        np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=0, atol=1e-5)
