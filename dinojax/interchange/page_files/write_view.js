// Writing names, or on with a text, and the favourites among what was written.

const NUM_NAMES = 10, TEXT_LENGTH = 400, PIECE = 8;
// For a name that is not empty.
const MOST_DRAWS = 100;

/** The step that predicts the first character. */
const firstStep = (network) => nextStep(network, freshStep(network), network.vocabSize);

/** New names and how each was drawn, as `write` says; fewer than `num` if too many are empty. */
function writeSome(num, network, vocabulary, first, random, options) {
  const found = [];
  for (let left = num * MOST_DRAWS; left > 0 && found.length < num; left--) {
    const drawn = write(network, first, random, options);
    // The data are composed and stripped, but the network may draw a letter and its accent one by
    // one, and blanks at the ends.
    const name = vocabulary.decode(drawn.ids).normalize("NFC").trim();
    if (name) found.push({ name, drawn });
  }
  return found;
}

/** Something to read at first: a few names, or a piece of a text, that the network wrote. */
function exampleText({ network, vocabulary, isText, data }) {
  const random = generator(1), newline = isText ? -1 : vocabulary.newline;
  const options = { temperature: 0.7, topP: 1, newline, length: isText ? 150 : data.maxLength };
  const first = firstStep(network);
  if (isText) return vocabulary.decode(write(network, first, random, options).ids);
  const names = writeSome(3, network, vocabulary, first, random, options);
  return names.map(({ name }) => name).join("\n");
}

function writeView(app) {
  const { isText, vocabulary, names, data } = app, list = byId("written"), seed = byId("seed");
  const known = new Set((names ?? []).map((name) => name.join("")));
  const favourites = new Set();
  byId("write-title").textContent = isText ? "Let it write" : "Invent names";
  byId("write").textContent = isText ? "Write on" : "Write names";
  byId("prompt-field").hidden = !isText;

  function showFavourites() {
    byId("favourites-area").hidden = favourites.size === 0;
    byId("favourites").value = Array.from(favourites).join(isText ? "\n\n" : "\n");
    byId("copied").textContent = "";
  }

  function showStar(button) {
    const isMarked = favourites.has(button.value);
    button.textContent = isMarked ? "★" : "☆";
    button.setAttribute("aria-pressed", isMarked);
  }

  /** A button that marks a name or a text as a favourite. */
  function star(text) {
    const attributes = { "aria-label": `Favourite: ${text.slice(0, 60)}`, type: "button" };
    const button = element("button", { className: "star", value: text, attributes });
    button.addEventListener("click", () => {
      if (!favourites.delete(text)) favourites.add(text);
      // The same name may stand there twice.
      list.querySelectorAll(".star").forEach(showStar);
      showFavourites();
    });
    showStar(button);
    return button;
  }

  /** Its probability, and whether it stands among the names of the data or is near one. */
  function aboutName(name, { ended, logProbability }) {
    const parts = [ended ? odds(logProbability) : `cut after ${data.maxLength} characters`];
    if (known.has(name)) parts.push("in the training data");
    else if (names) {
      const { name: nearest, distance } = nearestName(name, names);
      parts.push(`${counted(distance, "edit")} from ${vocabulary.shown(nearest)}`);
    }
    const title = `${rounded(-logProbability, 2)} nats`;
    return element("span", { className: "about", title, textContent: parts.join(" · ") });
  }

  function writeNames(first, random) {
    const { network, controls } = app, { newline } = vocabulary;
    const options = { ...controls, length: data.maxLength, newline };
    const names = writeSome(NUM_NAMES, network, vocabulary, first, random, options);
    const rows = names.map(({ name, drawn }) => {
      const shown = vocabulary.shown(name);
      const words = element("span", { className: "text" },
        element("span", { className: "name", textContent: shown }),
        aboutName(name, drawn));
      return element("li", {}, star(shown), words);
    });
    const textContent = "Only empty names come with these settings.";
    list.replaceChildren(...(rows.length ? rows : [element("li", { textContent })]));
  }

  /** Write a text piece by piece, between which the page can be used. */
  function writeText(first, random) {
    const { network, controls } = app;
    const ids = vocabulary.split(byId("prompt").value).map(vocabulary.idOf).filter(isKnown);
    let step = ids.reduce((old, id) => nextStep(network, old, id), first);
    let logProbability = 0, length = 0;
    const written = element("span"), about = element("span", { className: "about" });
    const prose = element("span", { className: "prose" },
      element("span", { className: "prompt", textContent: vocabulary.decode(ids) }), written);
    list.replaceChildren(element("li", {}, element("span", { className: "text" }, prose, about)));
    // It is read aloud once it is whole.
    list.setAttribute("aria-busy", true);
    const writePiece = () => {
      if (!written.isConnected) return;
      const piece = write(network, step, random, { ...controls, length: PIECE, newline: -1 });
      written.append(vocabulary.decode(piece.ids));
      step = piece.step;
      length += PIECE;
      logProbability += piece.logProbability;
      if (length < TEXT_LENGTH) return requestAnimationFrame(writePiece);
      about.textContent = `${rounded(-logProbability / length, 2)} nats a character`;
      list.firstChild.prepend(star(prose.textContent));
      list.setAttribute("aria-busy", false);
    };
    writePiece();
  }

  function refresh() {
    const random = generator(numberOf(seed));
    (isText ? writeText : writeNames)(firstStep(app.network), random);
  }

  byId("write").addEventListener("click", () => {
    seed.value = (numberOf(seed) + 1) % 2 ** 32;
    refresh();
  });
  seed.addEventListener("change", refresh);
  byId("prompt").addEventListener("change", refresh);
  byId("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(byId("favourites").value);
    } catch {
      // Where the clipboard is closed to the page, an older command may still work.
      byId("favourites").select();
      if (!document.execCommand("copy")) return;
    }
    byId("copied").textContent = "Copied.";
  });
  return refresh;
}
