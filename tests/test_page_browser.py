"""The page of a run in a real browser: every control, in both colour schemes and two widths.

It needs Chromium with its driver and selenium, and is skipped where one of them is missing.
"""

import shutil
from functools import partial
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.config import TrainConfig
from dinojax.data.distances import nearest
from dinojax.evaluation.ngram import fit_ngrams, nats
from dinojax.evaluation.probe import hidden_states
from dinojax.evaluation.strings import names_nats, text_nats
from dinojax.interchange.page_data import make_page
from dinojax.runs.description import Tally, build_model, describe
from dinojax.runs.folder import Run
from dinojax.sampling.controls import Controls, controlled

HOSTILE = [
    "</script><script>window.hacked=1</script>", "<!--<script>", "<img src=x onerror=hacked=1>",
    "\"'`&lt;", "a\u2028b", "\\u003c\x01",
]  # fmt: skip
NAMES = [*HOSTILE, "bela", "belan", "cora", "corin"]
NAMES += sorted(set("".join(NAMES)) - {" "})
WHITE = " ", "\u2028"
TEXT = 'A cat (old) said: "No." The dog\nran to 12 hills. ' * 12
SIZES = [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")]


def make(folder, data, **settings):
    """A page of four checkpoints with random parameters, and with all that a page can hold."""
    config = TrainConfig(lowercase=False, **settings)
    description, *_ = describe(config, data)
    vocab, model = description.vocab, build_model(config, description.vocab)
    like = jax.eval_shape(model.init, jax.random.key(0))
    runs = []
    for place in range(4):
        generator = np.random.default_rng(place)
        draw = partial(generator.normal, 0, 0.2 + 0.2 * place)
        params = jax.tree.map(lambda x, draw=draw: draw(size=x.shape).astype("f4"), like)
        # Names are short, so that some of those drawn are in the data.
        params["readout"]["bias"][vocab.newline] = 3
        runs.append(Run(description, model, params, 50 * place, Tally(), folder, ()))
    options = {"with_names": not config.is_text, "ngram_order": 3, "others": runs}
    made = make_page(runs[-1], f"{folder.name} <b>", data, data, **options)
    file = folder.with_suffix(".html")
    file.write_bytes(made.content)
    return SimpleNamespace(runs=runs, trained=runs[-1].trained, url=file.as_uri())


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return make(tmp_path_factory.mktemp("page") / "names", NAMES, cell="gru", hidden_size=12)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    shape = {"batch_size": 4, "window": 16, "num_layers": 2, "hidden_size": 8}
    folder = tmp_path_factory.mktemp("page") / "text"
    return make(folder, TEXT, batches="windows", cell="lstm", **shape)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One session of Chromium for all tests, without a network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("Chromium or its driver is not installed; the page is not opened")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync",
        "disable-background-networking", "disable-component-update", "disable-dev-shm-usage",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield Browser(session)
    session.quit()


class Browser:
    """What the tests ask of a browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page, width=1280, scheme="light"):
        """Open the page afresh in a window of this width."""
        media = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[media])
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get(page.url)

    def command(self, name, **arguments):
        self.driver.execute_cdp_cmd(name, arguments)

    def run(self, code, *arguments):
        """What a function body returns; `$` and `$$` find elements, `set` changes a control."""
        return self.driver.execute_script(HELPERS + code, *arguments)

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def texts(self, selector):
        return self.run("return $$(arguments[0]).map((x) => x.textContent)", selector)

    def wait(self):
        """Wait until the page has written again after a slider has moved."""
        self.driver.execute_async_script("setTimeout(arguments[0], 250)")

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


HELPERS = """
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const set = (selector, value) => {
  const control = $(selector);
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
  control.dispatchEvent(new Event("change", { bubbles: true }));
};
"""


@pytest.mark.parametrize(("width", "scheme"), SIZES)
@pytest.mark.parametrize("kind", ["names", "text"])
def test_the_page_fits_and_can_be_read_everywhere(kind, width, scheme, browser, request):
    page = request.getfixturevalue(kind)
    browser.open(page, width, scheme)
    # Show all there is: favourites, n-grams, a chosen character, the input of a unit.
    browser.run("""
      $(".star")?.click(); $("#ngrams").click(); $("#colour").value = "unit";
      $("#colour").dispatchEvent(new Event("change")); $$("#letters span")[3].click();
    """)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    unlabelled = browser.run("""
      return $$("input, select, textarea, button").filter((x) => !x.closest("[hidden]") &&
        !(x.labels?.length || x.ariaLabel || x.hasAttribute("aria-labelledby") ||
          (x.tagName === "BUTTON" && x.textContent.trim()))).map((x) => x.outerHTML);
    """)
    assert unlabelled == []
    # The darkest cells of both hues count too.
    browser.run("""
      $$("#letters span").forEach((x, i) => {
        if (x.className !== "unknown") x.style.setProperty("--level", 1);
        x.style.setProperty("--hue", i % 2 ? "var(--cool)" : "var(--warm)");
      });
    """)
    found = browser.run(COLOURS)
    assert len(found) > 40
    assert [each for each in found if contrast(each[1:]) < 4.5] == []
    assert browser.errors() == []


COLOURS = """
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const found = [];
for (const node of $$("body *")) {
  const own = [...node.childNodes].some((x) => x.nodeType === 3 && x.data.trim());
  if (!(own || node.value) || !node.checkVisibility() || node.tagName === "SCRIPT") continue;
  let background = [0, 0, 0, 0];
  for (let x = node; x && background[3] < 1; x = x.parentElement) {
    const [r, g, b, a] = parse(getComputedStyle(x).backgroundColor);
    const [below, share] = [[r, g, b], (1 - background[3]) * a];
    background = [...below.map((v, i) => background[i] + v * share), background[3] + share];
  }
  const colour = parse(getComputedStyle(node).color);
  found.push([node.id || node.className, colour.slice(0, 3), background.slice(0, 3)]);
}
return found;
"""


def contrast(pair):
    """The ratio of luminances of WCAG 2."""
    channels = np.array(pair) / 255
    linear = np.where(channels < 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_text_of_the_data_stays_text(browser, names):
    browser.open(names)
    browser.run("set('#text', arguments[0])", "\n".join(HOSTILE))
    browser.run("set('#beginning', arguments[0])", HOSTILE[0])
    shown = browser.run("return [window.hacked, document.title, $('h1').textContent, $$('img')]")
    assert shown == [None, "names <b>", "names <b>", []]
    tags = "return [...new Set($$('body *').map((x) => x.tagName.toLowerCase()))]"
    assert "b" not in browser.run(tags)
    assert browser.run("return $$('script').length") == 2
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.errors() == []
    # The policy holds: neither an element nor an attribute can run a script.
    browser.run("""
      document.body.append(Object.assign(document.createElement("script"), { text: "hacked = 1" }));
      document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked = 1'>");
    """)
    assert browser.run("return window.hacked") is None
    assert browser.errors()


def test_names_are_written_by_seed_and_judged(browser, names):
    browser.open(names)
    first = browser.texts("#written .name")
    assert len(first) == 10
    assert all(first)
    titles = browser.run("return $$('#written .about').map((x) => x.title)")
    found = [float(title.removesuffix(" nats")) for title in titles]
    # The network may have drawn white space at the ends, which is not shown.
    ends = ["", *WHITE, *map("".join, product(WHITE, repeat=2))]
    spelled = [[f"{x}{name}{y}" for x, y in product(ends, repeat=2)] for name in first]
    nats = iter(names_nats(names.trained, [each for some in spelled for each in some]))
    for figure, some in zip(found, spelled, strict=True):
        costs = [next(nats)[: None if len(each) < 50 else -1].sum() for each in some]
        assert min(abs(cost - figure) for cost in costs) < 0.006
    places, distances = nearest(first, NAMES)
    abouts = browser.texts("#written .about")
    assert any(name in NAMES for name in first)
    for name, about, place, distance in zip(first, abouts, places, distances, strict=True):
        assert about.startswith("1 in " if len(name) < 50 else "cut after 50 characters")
        edits = f"{distance} edit{'' if distance == 1 else 's'} from {NAMES[place]}"
        known = "in the training data" if name in NAMES else edits
        assert about.split(" · ")[1] == known
    browser.run("$('#write').click()")
    assert browser.run("return $('#seed').value") == "1"
    second = browser.texts("#written .name")
    assert second != first
    browser.run("set('#seed', 0)")
    assert browser.texts("#written .name") == first
    browser.run("set('#seed', -3)")
    assert browser.run("return $('#seed').value") == "0"
    browser.run("set('#temperature', 0)")
    browser.wait()
    # The likeliest name of this network is empty.
    assert browser.texts("#written .name") == []
    assert browser.texts("#written li") == ["Only empty names come with these settings."]
    assert browser.texts("[data-shows=temperature]") == ["0.00", "0.00"]
    assert browser.run("return $('#next-temperature').value") == "0"
    assert browser.errors() == []


def test_favourites_are_kept_and_copied(browser, names):
    browser.open(names)
    assert browser.run("return $('#favourites-area').hidden")
    first = browser.texts("#written .name")
    browser.run("$$('.star')[0].click(); $$('.star')[4].click(); $('#write').click()")
    assert browser.run("return $('#favourites').value") == f"{first[0]}\n{first[4]}"
    browser.run("set('#seed', 0)")
    pressed = browser.run("return $$('.star').map((x) => x.ariaPressed)")
    assert pressed == [str(name in (first[0], first[4])).lower() for name in first]
    browser.run("$$('.star')[0].click()")
    assert browser.run("return $('#favourites').value") == first[4]
    browser.command("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    browser.driver.find_element("id", "copy").click()
    copied = browser.driver.execute_async_script(
        "const [done] = arguments; setTimeout(() => navigator.clipboard.readText().then(done), 300)"
    )
    assert copied == first[4]
    assert browser.run("return $('#copied').textContent") == "Copied."


@pytest.mark.parametrize(("temperature", "top_p"), [(1, 1), (0.5, 1), (1.5, 0.7)])
def test_bars_are_the_probabilities_of_what_comes_next(temperature, top_p, browser, names):
    browser.open(names)
    browser.run("set('#next-temperature', arguments[0])", temperature)
    browser.run("set('#next-top-p', arguments[0])", top_p)
    browser.run("$('#ngrams').click(); set('#beginning', 'bel')")
    model, params, vocab, _ = names.trained
    inputs = jnp.asarray([model.vocab_size, *vocab.encode("bel")], int)
    _, logits = model.unroll(params, model.initial_state(()), inputs)
    ids = vocab.encode("".join(f"{name}\n" for name in NAMES))
    ngrams = fit_ngrams(ids, np.roll(ids == vocab.newline, 1), vocab.size, 3)
    follows = [[*vocab.encode("bel"), x] for x in range(vocab.size)]
    starts = [True, False, False, False]
    others = [-nats(ngrams, each, starts)[-1] for each in follows]
    controls = Controls(temperature=temperature, top_p=top_p)
    expected = np.exp(controlled(logits[-1], controls))
    beside = np.exp(controlled(jnp.asarray(others, "f4"), controls))
    rows = browser.run("""
      return $$("#bars .row").map((x) => [Number(x.dataset.id),
        ...[...x.querySelectorAll(".bar")].map((bar) => bar.style.getPropertyValue("--length"))]);
    """)
    order = np.argsort(-expected, kind="stable")[: min(12, np.sum(expected > 0))]
    assert [row[0] for row in rows] == order.tolist()
    full = np.ceil(4 * expected.max()) / 4
    lengths = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(lengths[:, 0], expected[order] / full, atol=1e-4)
    np.testing.assert_allclose(lengths[:, 1], np.minimum(1, beside[order] / full), atol=1e-4)


def test_a_press_on_a_bar_types_its_character(browser, names):
    from selenium.webdriver.common.keys import Keys

    browser.open(names)
    browser.run("set('#beginning', 'be'); $('#bars button').focus()")
    signs = browser.texts("#bars button .sign")
    browser.press(Keys.ENTER)
    assert browser.run("return $('#beginning').value") == f"be{signs[0].replace('␣', ' ')}"
    # The keyboard stays in the list.
    assert browser.run("return document.activeElement.closest('#bars') !== null")
    assert browser.errors() == []


def read_state(browser):
    return browser.run("""
      return { sum: $("#sum").textContent, detail: $("#detail-text").textContent,
        guesses: $$("#guesses .sign").map((x) => x.textContent),
        letters: $$("#letters span").map((x) => x.textContent.trim()),
        levels: $$("#letters span").map((x) => Number(x.style.getPropertyValue("--level"))),
        hues: $$("#letters span").map((x) => x.style.getPropertyValue("--hue")),
        leans: $$("#letters span").map((x) => Number(x.style.getPropertyValue("--lean") || 0)),
        chosen: $$("#letters span").findIndex((x) => x.ariaSelected === "true") };
    """)


def test_surprisal_of_names_is_coloured_and_summed(browser, names):
    from selenium.webdriver.common.keys import Keys

    browser.open(names)
    browser.run("set('#text', 'belan\\n\\n  coQra ')")
    state = read_state(browser)
    assert state["letters"] == [*"belan", "↵", *"coQra", "↵"]
    costs = np.concatenate(names_nats(names.trained, ["belan", "cora"]))
    total = costs.sum()
    assert f"{total:.2f} nats, {total / np.log(2):.2f} bits in all" in state["sum"]
    assert "left out: 1 character" in state["sum"]
    levels = np.delete(state["levels"], 8)
    np.testing.assert_allclose(levels, np.minimum(1, costs / np.log(2) / 8), atol=1e-5)
    # By the keyboard: the focus chooses the first character, and arrows move.
    browser.run("$('#letters').focus()")
    assert read_state(browser)["chosen"] == 0
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    state = read_state(browser)
    assert state["chosen"] == 3
    probability = np.exp(-costs[3])
    assert state["detail"].startswith(f"“a”: probability {100 * probability:.2g}".rstrip("0"))
    model, params, vocab, _ = names.trained
    inputs = jnp.asarray([model.vocab_size, *vocab.encode("bel")], int)
    _, logits = model.unroll(params, model.initial_state(()), inputs)
    best = [vocab.characters[i] for i in np.argsort(-logits[-1], kind="stable")[:5]]
    signs = {"\n": "end", " ": "␣"}
    assert state["guesses"] == [signs.get(character, character) for character in best]
    # It leans on what stands before it in its own name alone.
    assert max(state["leans"][:3]) == 1
    assert state["leans"][3:] == [0] * 9
    browser.press(Keys.END)
    state = read_state(browser)
    assert state["chosen"] == 11
    assert state["detail"].startswith("end of the name (end)")
    assert max(state["leans"][6:11]) == 1
    assert state["leans"][:6] == [0] * 6
    browser.run("$$('#letters span')[8].click()")
    assert "unknown to the network" in read_state(browser)["detail"]
    # Another text leaves nothing of the old one.
    browser.run("set('#text', '')")
    assert read_state(browser) == {
        "sum": "", "detail": read_state(browser)["detail"], "guesses": [], "letters": [],
        "levels": [], "hues": [], "leans": [], "chosen": -1,
    }  # fmt: skip
    assert browser.run("return $('#detail').hidden")
    assert browser.errors() == []


def test_hovering_shows_what_was_expected(browser, names):
    from selenium.webdriver import ActionChains

    browser.open(names)
    spans = browser.driver.find_elements("css selector", "#letters span")
    ActionChains(browser.driver).move_to_element(spans[2]).perform()
    assert read_state(browser)["chosen"] == 2
    assert len(read_state(browser)["guesses"]) == 5


def test_units_colour_the_text(browser, text):
    browser.open(text)
    browser.run("set('#text', 'The cat'); $('#units button').click()")
    layer, unit = map(int, browser.run("return $('#units button').dataset.unit").split())
    assert browser.run("return $('#units button').ariaPressed") == "true"
    assert browser.run("return [$('#layer').value, $('#unit').value]") == [
        str(layer + 1),
        str(unit),
    ]
    states = hidden_states(text.trained, "The cat")
    state = read_state(browser)
    np.testing.assert_allclose(state["levels"], np.abs(states[layer][:, unit]), atol=1e-5)
    negative = [hue == "var(--cool)" for hue in state["hues"]]
    assert negative == (states[layer][:, unit] < 0).tolist()
    browser.run("set('#layer', 1); set('#unit', 99)")
    assert browser.run("return $('#unit').value") == "7"
    levels = read_state(browser)["levels"]
    np.testing.assert_allclose(levels, np.abs(states[0][:, 7]), atol=1e-5)
    browser.run("set('#colour', 'surprisal')")
    costs = text_nats(text.trained, "The cat")
    expected = np.minimum(1, costs / np.log(2) / 8)
    np.testing.assert_allclose(read_state(browser)["levels"], expected, atol=1e-5)
    assert browser.run("return $('#unit-field').hidden")
    assert browser.errors() == []


def test_a_change_within_the_text_reads_it_again(browser, text):
    browser.open(text)
    for string in ("The dog ran.", "The cat ran.", "cat", "dog", "No. The cat "):
        browser.run("set('#text', arguments[0])", string)
        costs = text_nats(text.trained, string)
        expected = np.minimum(1, costs / np.log(2) / 8)
        np.testing.assert_allclose(read_state(browser)["levels"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["names", "text"])
def test_checkpoints_show_the_network_learn(kind, browser, request):
    page = request.getfixturevalue(kind)
    browser.open(page)
    steps = [run.step for run in page.runs]
    assert steps == [0, 50, 100, 150]
    assert browser.run("return $('#checkpoint').max") == "3"
    assert browser.texts("#steps") == ["after 150 steps"]
    string = "bela" if kind == "names" else "The cat"
    browser.run("set('#text', arguments[0]); $('#letters').focus()", string)
    shown, written = [], set()
    for place, run in enumerate(page.runs):
        browser.run("set('#checkpoint', arguments[0])", place)
        assert browser.texts("#steps") == [f"after {run.step} steps"]
        costs = (
            names_nats(run.trained, [string])[0]
            if kind == "names"
            else text_nats(run.trained, string)
        )
        state = read_state(browser)
        np.testing.assert_allclose(state["levels"], np.minimum(1, costs / np.log(2) / 8), atol=1e-5)
        shown.append(state["detail"])
        browser.wait()
        written.add("\n".join(browser.texts("#written .text")))
    assert len({*shown}) == len(written) == 4
    assert browser.errors() == []


def test_a_text_is_written_on(browser, text):
    from selenium.webdriver.support.ui import WebDriverWait

    def written():
        browser.run("set('#seed', 5)")
        WebDriverWait(browser.driver, 20).until(lambda _: browser.texts("#written .star"))
        return browser.texts("#written .prose")[0]

    browser.open(text)
    browser.run("set('#prompt', 'The §dog')")
    first = written()
    assert browser.run("return $('#written').ariaBusy") == "false"
    assert first.startswith("The dog")
    assert len(first) == len("The dog") + 400
    assert written() == first
    costs = text_nats(text.trained, first)[len("The dog") :]
    assert browser.texts("#written .about") == [f"{costs.mean():.2f} nats a character"]
    browser.run("$('.star').click()")
    assert browser.run("return $('#favourites').value") == first
    browser.run("set('#temperature', 0)")
    browser.wait()
    assert written() != first
    assert browser.errors() == []


def test_every_control_can_be_reached_and_seen_by_the_keyboard(browser, names):
    from selenium.webdriver.common.keys import Keys

    browser.open(names)
    reached = []
    for _ in range(60):
        browser.press(Keys.TAB)
        found = browser.run("""
          const x = document.activeElement, style = getComputedStyle(x);
          return [x.id || x.className, parseFloat(style.outlineWidth), style.outlineStyle];
        """)
        if reached and found[0] == reached[0]:
            break
        reached.append(found[0])
        if found[0]:
            assert found[1] >= 2, found
            assert found[2] != "none", found
    wanted = {
        "checkpoint", "temperature", "top-p", "seed", "write", "star", "beginning", "ngrams",
        "next-temperature", "next-top-p", "row", "text", "colour", "letters",
    }  # fmt: skip
    assert wanted <= set(reached)


def test_motion_is_reduced_where_asked(browser, names):
    browser.open(names)
    duration = "return getComputedStyle($('.bar')).transitionDuration"
    assert browser.run(duration) != "0s"
    media = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.command("Emulation.setEmulatedMedia", features=[media])
    assert browser.run(duration) == "0s"
