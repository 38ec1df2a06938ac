"""The page of a run: its scripts, run by Node, against JAX; its data; the command.

test_page_browser.py opens it.
"""

import base64
import json
import re
import shutil
import subprocess
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein
from scipy.stats import chisquare

from dinojax.cli import page as command
from dinojax.cli.main import call
from dinojax.cli.terminal import Program
from dinojax.config import CellName, TrainConfig
from dinojax.contradictions import WITH_GATES
from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.text import INVISIBLE, composed
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.evaluation.ngram import fit_ngrams, nats
from dinojax.evaluation.strings import names_nats
from dinojax.interchange import page, page_data
from dinojax.interchange.page_data import make_page
from dinojax.models.gates import GATES
from dinojax.models.trained import Trained
from dinojax.presets import PRESETS
from dinojax.runs import folder as runs
from dinojax.runs import session
from dinojax.runs.description import Tally, build_model, describe
from dinojax.runs.experiment import make_experiment
from dinojax.runs.folder import Run
from dinojax.sampling.controls import Controls, controlled

HOSTILE = [
    "</script><script>document.title='broken'</script>", "<!--", "<!--<script>", "]]>", "&lt;&amp;",
    "<img src=x onerror=alert(1)>", "a\u2028b\u2029c", "\"'`", "\\u003c\\", "${1}", "{{script}}",
    "\x01\x7f\ufeff", "\U0001f995", "é", "</textarea></style>",
]  # fmt: skip
PURE = "engine", "linear_cells", "sampler", "ngrams", "strings"


def run_node(code, value):
    """What `code` computes from `input`, the value, with the scripts of the page that need no page.

    It is JSON that goes in and comes out.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed; the scripts of the page are not run")
    scripts = "\n".join((page.SOURCES / f"{name}.js").read_text("utf-8") for name in PURE)
    program = (
        f'"use strict";{scripts}\nconst input = JSON.parse(require("fs").readFileSync(0, "utf8"));'
        f"const output = (() => {{ {code} }})();\n"
        "process.stdout.write(JSON.stringify(output, (_, x) => ArrayBuffer.isView(x) ? [...x] : x))"
    )
    result = subprocess.run(
        [node, "-e", program],
        input=json.dumps(value), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_scripts_are_free_of_errors_of_syntax():
    texts = {path.name: path.read_text("utf-8") for path in page.SOURCES.glob("*.js")}
    code = """
    for (const [filename, text] of Object.entries(input))
      new (require("vm").Script)(text, { filename });
    return true;
    """
    assert run_node(code, texts)


def test_scripts_put_no_html_into_the_page():
    for path in page.SOURCES.glob("*.js"):
        text = path.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert max(map(len, text.splitlines())) <= 100


def test_all_sources_are_in_the_page():
    assert {path.stem for path in page.SOURCES.glob("*.js")} == set(page.SCRIPTS)


def test_a_cell_that_the_scripts_lack_is_refused(tmp_path, monkeypatch):
    assert all(map(page.has_cell, get_args(CellName)))
    for name in ("engine.js", "linear_cells.js"):
        text = (page.SOURCES / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace("  vanilla: (", "  plain: ("), "utf-8")
    monkeypatch.setattr(page, "SOURCES", tmp_path)
    with pytest.raises(ValueError, match=r"page_files/engine\.js has no vanilla cell; add"):
        make_page(make_run(WORDS, hidden_size=5), "words", WORDS, WORDS)


# The network.


def networks():
    """A configuration for each cell, gate and number of layers, with large random parameters."""
    vocab = Vocab("\nabcde")
    for seed, (cell, gate, num_layers) in enumerate(product(get_args(CellName), GATES, [1, 2])):
        if cell not in WITH_GATES and gate != "sigmoid":
            continue
        config = TrainConfig(cell=cell, gate=gate, num_layers=num_layers, hidden_size=7)
        model = build_model(config, vocab)
        like = jax.eval_shape(model.init, jax.random.key(0))
        draw = partial(np.random.default_rng(seed).normal, 0, 0.7)
        params = jax.tree.map(lambda x, draw=draw: draw(x.shape).astype("f4"), like)
        yield f"{cell} {gate} {num_layers}", config, Trained(model, params, vocab)


NETWORKS = {name: (config, trained) for name, config, trained in networks()}
IDS = [6, 1, 5, 0, 3, 3, 2, 4, 1, 1, 5, 2]
"""Read by the networks, "no character" first, to predict the last of them."""


def spec(config, trained, precision="single"):
    return {
        "cell": config.cell,
        "gate": config.gate,
        "shapes": page.shapes_of(trained.params),
        "bytesPerNumber": 2 if precision == "half" else 4,
    }


@cache
def computed():
    """Logits and gradients of all networks by the scripts."""
    cases = {
        name: {"spec": spec(*found), "weights": page.pack_weights(found[1].params, "single")}
        for name, found in NETWORKS.items()
    }
    code = """
    const found = {};
    for (const [name, { spec, weights }] of Object.entries(input.cases)) {
      const network = makeNetwork(spec, weights), steps = [freshStep(network)];
      for (const id of input.ids.slice(0, -1)) steps.push(nextStep(network, steps.at(-1), id));
      const norms = (reach) => leanings(network, steps, input.ids.at(-1), reach);
      found[name] = {
        logits: steps.slice(1).map((step) => step.logits),
        outputs: steps.slice(1).map((step) => step.layers.map((layer) => layer.h)),
        norms: norms(100), near: norms(3),
      };
    }
    return found;
    """
    return run_node(code, {"cases": cases, "ids": IDS})


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_and_its_gradients_are_those_of_jax(name):
    found, (_, (model, params, *_)) = computed()[name], NETWORKS[name]
    ids = jnp.asarray(IDS[:-1])

    def surprisal(inputs):
        _, logits = model.unroll(params, model.initial_state(()), inputs)
        return -jax.nn.log_softmax(logits[-1])[IDS[-1]], logits

    @jax.jit
    def compute():
        step = partial(model.layer_outputs, params)
        _, layers = jax.lax.scan(step, model.initial_state(()), ids)
        # "No character" is the zero vector.
        gradient, logits = jax.grad(surprisal, has_aux=True)(jax.nn.one_hot(ids, 6))
        return logits, jnp.stack(layers, axis=1), jnp.linalg.norm(gradient, axis=1)

    logits, outputs, norms = jax.device_get(compute())
    np.testing.assert_allclose(found["logits"], logits, rtol=0, atol=1e-5)
    assert np.ptp(logits) > 1
    np.testing.assert_allclose(found["outputs"], outputs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["norms"], [0, *norms], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["near"], [0] * 9 + [*norms[-3:]], rtol=1e-4, atol=1e-6)


def test_every_half_is_decoded():
    halves = np.arange(2**16, dtype="<u2").view("<f2")
    halves = halves[np.isfinite(halves)]
    text = base64.b64encode(halves.tobytes()).decode()
    found = run_node("return decodeNumbers(fromBase64(input), 2)", text)
    np.testing.assert_array_equal(np.float32(found), halves.astype("f4"))


@pytest.mark.parametrize("precision", ["half", "single"])
def test_weights_are_packed_exactly(precision):
    _, trained = NETWORKS["lstm sigmoid 2"]
    packed = page.pack_weights(trained.params, precision)
    back = page.unpack_weights(packed, trained.params, precision)
    rounded = jax.tree.map(lambda x: x.astype(page.NUMBERS[precision]).astype("f4"), trained.params)
    jax.tree.map(np.testing.assert_array_equal, back, rounded)


def test_a_parameter_too_large_for_half_precision_is_refused():
    params = {"bias": np.array([0, 70_000], "f4")}
    with pytest.raises(ValueError, match="single precision"):
        page.pack_weights(params, "half")
    assert page.pack_weights(params, "single")


# The sampler.

CONTROLS = [(1.0, 1.0), (0.5, 1.0), (1.7, 1.0), (1.0, 0.6), (0.8, 0.9), (1.0, 0.05), (0.0, 1.0)]
LOGITS = [0.3, -2.0, 1.5, 0.3, 1.1, -0.4, 1.5, -5.0]


def test_draws_follow_the_law_of_the_controls():
    code = """
    const random = generator(7);
    return input.controls.map(([temperature, topP]) => {
      const probabilities = controlled(Float64Array.from(input.logits), temperature, topP);
      const counts = probabilities.map(() => 0);
      for (let i = 0; i < 20000; i++) counts[draw(probabilities, random())]++;
      return { probabilities, counts };
    });
    """
    found = run_node(code, {"controls": CONTROLS, "logits": LOGITS})
    for (temperature, top_p), each in zip(CONTROLS, found, strict=True):
        controls = Controls(temperature=temperature, top_p=top_p)
        expected = np.exp(controlled(jnp.asarray(LOGITS), controls))
        np.testing.assert_allclose(each["probabilities"], expected, atol=1e-6)
        possible = expected > 0
        counts = np.array(each["counts"])
        assert not counts[~possible].any()
        if possible.sum() > 1:
            shares = np.array(each["probabilities"])[possible]
            assert chisquare(counts[possible], shares / shares.sum() * 20_000).pvalue > 1e-3


def test_random_numbers_are_uniform_and_depend_on_the_seed():
    code = """
    return input.map((seed) => {
      const random = generator(seed);
      return Array.from({ length: 4000 }, random);
    });
    """
    seeds = [0, 1, 2, 2**31, 2**32 - 1]
    found = np.array(run_node(code, seeds))
    assert ((found >= 0) & (found < 1)).all()
    for row in found:
        assert chisquare(np.histogram(row, 20, (0, 1))[0]).pvalue > 1e-4
    # The first numbers of neighbouring seeds differ too.
    assert len(np.unique(found[:, :3])) == 15
    assert np.abs(np.corrcoef(found) - np.eye(5)).max() < 0.08


def test_names_have_the_probability_that_the_model_gives_them():
    config, trained = NETWORKS["gru sigmoid 1"]
    code = """
    const network = makeNetwork(input.spec, input.weights), random = generator(3);
    const first = nextStep(network, freshStep(network), network.vocabSize);
    const options = { temperature: 1.3, topP: 0.95, newline: 0, length: 200 };
    return Array.from({ length: 200 }, () => write(network, first, random, options));
    """
    weights = page.pack_weights(trained.params, "single")
    found = run_node(code, {"spec": spec(config, trained), "weights": weights})
    names = [trained.vocab.decode(each["ids"]) for each in found]
    assert len(set(names)) > 20
    costs = [each.sum() for each in names_nats(trained, names)]
    np.testing.assert_allclose([-each["logProbability"] for each in found], costs, rtol=1e-4)


# N-grams and strings.


@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngram_probabilities_are_those_of_the_model(order):
    generator = np.random.default_rng(order)
    # One large vocabulary, so that keys need several bytes.
    sizes = {1: 3, 2: 300, 5: 6}
    vocab_size = sizes[order]
    ids = np.minimum(generator.geometric(3 / vocab_size, 400), vocab_size) - 1
    starts = np.arange(400) % 16 == 0
    model = fit_ngrams(ids, starts, vocab_size, order)
    read = generator.integers(vocab_size, size=20).tolist() + ids[:32].tolist()
    prefixes = [read[start:stop] for start, stop in [(0, 0), (0, 1), (0, 20), (20, 30), (21, 52)]]
    code = """
    const model = makeNgrams(input.tables, input.vocabSize);
    return input.prefixes.map((ids) => ngramProbabilities(model, ids));
    """
    tables = page.pack_ngrams(model, order)
    given = {"tables": tables, "vocabSize": vocab_size, "prefixes": prefixes}
    for prefix, found in zip(prefixes, run_node(code, given), strict=True):
        for character in range(vocab_size):
            text = [*prefix, character]
            expected = nats(model, text, np.arange(len(text)) == 0)[-1]
            assert -np.log(found[character]) == pytest.approx(expected, rel=1e-9)


def test_whole_numbers_are_packed_exactly():
    numbers = [0, 1, 127, 128, 300, 2**31, 2**45 + 3]
    assert run_node("return decodeVarints(fromBase64(input))", page.varints(numbers)) == numbers


def test_the_nearest_name_is_found():
    generator = np.random.default_rng(0)
    draws = ["".join(generator.choice([*"abé\U0001f995"], size)) for size in range(1, 15)]
    names, strings = draws[::2], [*draws[1::2], "", draws[0]]
    code = """
    const names = input.names.map((name) => Array.from(name));
    return input.strings.map((string) => nearestName(string, names));
    """
    found = run_node(code, {"names": names, "strings": strings})
    for string, each in zip(strings, found, strict=True):
        distances = [Levenshtein.distance(string, name) for name in names]
        assert each["distance"] == min(distances)
        assert each["name"] == names[int(np.argmin(distances))]


def test_strings_are_read_as_the_data_was():
    code = """
    return [true, false].map((lowercase) => {
      const { split, shown } = makeVocabulary({ characters: "\\na", lowercase });
      return [split(input).join(""), ...["éa", "\\u{1f995}", "ß"].map(shown)];
    });
    """
    text = f"E\u0301a {INVISIBLE}I\u0307 ΑΣ \U0001f995 e\u0301"
    lowered, kept = run_node(code, text)
    assert lowered == [composed(text, True), "Éa", "\U0001f995", "ß"]
    assert kept == [composed(text, False), "éa", "\U0001f995", "ß"]


# The page.


@pytest.mark.parametrize("text", HOSTILE)
def test_data_break_out_neither_of_html_nor_of_script(text):
    content = page.page_content({"title": text, "names": HOSTILE})
    assert page.read_page(content) == {"title": text, "names": HOSTILE}
    html = content.decode()
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)
    assert not re.search("[<>&\u2028\u2029]", data)
    assert html.count("<script") == html.count("</script>") == 2


def test_a_page_that_was_changed_is_refused():
    content = page.page_content({"title": "a"})
    for changed in (
        content.replace(b"vanilla", b"vanille"),
        content.replace(b'"a"', b'"a" '),
        content.replace(b"</main>", b"<script></script></main>"),
    ):
        with pytest.raises(ValueError, match="expected a page"):
            page.read_page(changed)


def test_the_page_loads_nothing():
    content = page.page_content({}).decode()
    assert re.search(r"default-src 'none'; script-src 'sha256-[^' ]+'; style-src 'sha256-", content)
    assert not re.search(r"https?:|@import|url\(|\bsrc=|href=|fetch\(|XMLHttp|unsafe", content)


def make_run(part, **settings):
    """A run that has its initial parameters."""
    config = TrainConfig(**settings)
    description, *_ = describe(config, part)
    model = build_model(config, description.vocab)
    return Run(description, model, model.init(jax.random.key(0)), 7, Tally(), Path(), ())


WORDS = ["tana", "kelo", "miru", "sato", "nelu", "aki", "tomi", "leko"]


def test_the_data_of_a_page():
    run = make_run(WORDS, hidden_size=5)
    others = [run._replace(step=step) for step in (9, 0)]
    options = {"others": others, "with_names": True, "ngram_order": 2}
    made = make_page(run, "words", WORDS, WORDS, **options)
    data = page.read_page(made.content)
    assert [x["step"] for x in data["checkpoints"]] == [0, 7, 9]
    assert data["start"] == 1
    assert data["names"] == WORDS
    assert len(data["ngrams"]) == 2
    costs = np.concatenate(names_nats(run.trained, WORDS))
    facts = dict(data["facts"])
    assert facts["Loss"].startswith(f"{costs.mean():.4f} ± ")
    assert facts["Parameters"] == str(sum(x.size for x in jax.tree.leaves(run.params)))
    assert (facts["Learned from"], facts["Training"]) == ("8 names", "7 steps")
    assert facts["Measured over"] == f"{len(costs)} characters, what it learned from"
    begun = run._replace(description=run.description._replace(init_from="model.h5"))
    facts = dict(page.read_page(make_page(begun, "words", WORDS, WORDS).content)["facts"])
    assert facts["Training"] == "7 steps, after earlier ones"
    plain = make_page(run, "words", WORDS[2:], WORDS[:2], split="validation")
    data = page.read_page(plain.content)
    assert data["names"] is data["ngrams"] is None
    assert dict(data["facts"])["Measured over"].endswith("the validation part, never learned")
    assert not any("gram" in label for label, _ in data["facts"])
    assert not any(word in plain.content.decode() for word in WORDS)


@pytest.mark.parametrize(
    ("before", "learned", "said"),
    [
        (("a",), WORDS[2:], "never learned"),
        (("a",), WORDS[1:], "of which earlier runs learned 1"),
        (("", "a"), WORDS[2:], "which earlier runs may have learned"),
        (("a",), None, "which earlier runs may have learned"),
    ],
)
def test_a_page_says_what_runs_before_it_learned(before, learned, said):
    run = make_run(WORDS, hidden_size=5)
    description = run.description._replace(init_from="earlier", learned_before=before)
    run = run._replace(description=description)
    made = make_page(run, "words", learned, WORDS[:2], split="validation")
    data = page.read_page(made.content)
    assert dict(data["facts"])["Measured over"].endswith(f"the validation part, {said}")
    assert ("names" if learned is None else f"{len(learned)} names") in data["lead"]


def test_the_loss_over_a_single_name_has_no_error():
    run = make_run(WORDS, hidden_size=5)
    made = make_page(run, "words", WORDS, WORDS[:1])
    loss = dict(page.read_page(made.content)["facts"])["Loss"]
    assert re.fullmatch(r"\d\.\d{4} nats, \d\.\d{4} bits a character", loss)


def test_half_precision_is_chosen_where_it_moves_no_logit_much():
    run = make_run(WORDS, hidden_size=5)
    small = run._replace(params=jax.tree.map(lambda x: x / 8, run.params))
    large = run._replace(params=jax.tree.map(lambda x: x * 20, run.params))
    huge = run._replace(params=jax.tree.map(lambda x: x * 1e6, run.params))
    arguments = "words", WORDS, WORDS
    made = make_page(small, *arguments)
    assert made.precision == "half"
    assert 0 < made.error == made.half_error <= 1e-3
    made = make_page(large, *arguments)
    assert (made.precision, made.error) == ("single", 0)
    assert 1e-3 < made.half_error < 10
    assert make_page(large, *arguments, precision="half").error == made.half_error
    assert np.isinf(make_page(huge, *arguments).half_error)
    with pytest.raises(ValueError, match="single precision"):
        make_page(huge, *arguments, precision="half")


def test_what_a_page_cannot_hold_is_refused(monkeypatch):
    run = make_run(WORDS, hidden_size=5)
    with pytest.raises(ValueError, match="n-gram order"):
        make_page(run, "words", WORDS, WORDS, ngram_order=9)
    for learned in ("a text", None):
        with pytest.raises(ValueError, match="50,000 names for the page, got no names"):
            make_page(run, "words", learned, WORDS, with_names=True)
    with pytest.raises(ValueError, match="got nothing"):
        make_page(run, "words", None, WORDS, ngram_order=2)
    monkeypatch.setattr(page_data, "MAX_NAMES", 7)
    with pytest.raises(ValueError, match="up to 7 names for the page, got 8 names"):
        make_page(run, "words", WORDS, WORDS, with_names=True)


@pytest.mark.parametrize(("preset", "most"), [("dinos", 300_000), ("text", 2_000_000)])
def test_pages_stay_small(preset, most):
    names = read_names(bundled_names()).data
    vocab = (
        Vocab("\n" + "".join(map(chr, range(32, 96)))) if preset == "text" else build_vocab(names)
    )
    model = build_model(PRESETS[preset], vocab)
    params = jax.tree.map(lambda x: np.ones(x.shape), jax.eval_shape(model.init, jax.random.key(0)))
    data = {"weights": page.pack_weights(params, "single")}
    if preset == "dinos":
        ids = vocab.encode("".join(f"{name}\n" for name in names))
        model = fit_ngrams(ids, np.roll(ids == vocab.newline, 1), vocab.size, 5)
        data |= {"names": names, "ngrams": page.pack_ngrams(model, 5)}
    assert len(page.page_content(data)) < most


# The command.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run that has done no step."""
    folder = tmp_path_factory.mktemp("page") / "run"
    folder.mkdir()
    config = TrainConfig(hidden_size=5, validation_fraction=0.25)
    session.start(make_experiment(*describe(config, WORDS)), folder)
    return folder


@pytest.fixture
def run_command(monkeypatch, tmp_path):
    """A function that runs the command in this process, which has started JAX already."""
    monkeypatch.setattr(command, "start_jax", lambda: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            return call(Program("page", "dinojax"), [str(x) for x in arguments])
        except SystemExit as ended:
            return ended.code

    return run


def test_the_command_writes_a_page_and_says_what_it_holds(run_command, folder, tmp_path, capsys):
    assert run_command(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    size = (tmp_path / "run.html").stat().st_size
    assert lines[0] == f"run.html: {size / 1000:,.0f} kB"
    assert re.fullmatch(r"weights in \w+ precision, read back: .*", lines[1])
    left_out = "training names (--names), an n-gram model (--ngrams 5), earlier checkpoints "
    assert lines[2:] == [f"left out: {left_out}(--checkpoints 10)"]
    assert page.read_page((tmp_path / "run.html").read_bytes())["title"] == "run"
    # A page is replaced by a new one.
    flags = "--names", "--ngrams", 2, "--checkpoints", 3, "--precision", "single"
    assert run_command(folder, "--out", "run.html", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["the run has only 1 checkpoint; train with a larger --keep for more"]
    data = page.read_page((tmp_path / "run.html").read_bytes())
    assert sorted(data["names"]) == sorted((folder / "train.txt").read_text().split())
    assert data["bytesPerNumber"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ngrams", "9"], "n-gram order: expected a number from 0 to 8, got 9"),
        (["--checkpoints", "-1"], "--checkpoints: expected a number from 0 to 100, got -1"),
        (["--out", "."], "--out: . is a directory or a device, not a file"),
        (["--out", "none/page.html"], "--out: there is no folder none; make it first"),
        (["--out", "train"], "--out: train is a file of a run; choose another name"),
    ],
)
def test_bad_input_is_one_line(arguments, message, run_command, folder, tmp_path, capsys):
    (tmp_path / "train").symlink_to(folder / "train.txt")
    before = (folder / "train.txt").read_bytes()
    assert run_command(folder, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("dinojax page: error: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert (folder / "train.txt").read_bytes() == before


def test_checkpoints_are_spread_from_first_to_last(monkeypatch):
    paths = [Path(f"checkpoint-{step:09d}.npz") for step in range(0, 110, 10)]
    monkeypatch.setattr(runs, "find_checkpoints", lambda folder: paths)
    monkeypatch.setattr(runs, "load_run", lambda folder, step: int(step))
    assert command.checkpoints(Path(), 3) == [0, 50, 100]
    assert command.checkpoints(Path(), 20) == [*range(0, 110, 10)]
    assert command.checkpoints(Path(), 1) == [0]
    assert command.checkpoints(Path(), 0) == []
