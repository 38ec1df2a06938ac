// A text, each character coloured by its surprisal or by a unit, with what was expected there.

const MOST_BITS = 8, REACH = 60, SLICE = 12;

/**
 * The characters of a text as items, and the inputs that the network reads. An item's `step` is
 * that which predicts it; its `read`, that which reads it. Names stand one a line, each read from
 * a fresh state and ended by a newline.
 */
function layOut(vocabulary, isText, text) {
  const items = [], inputs = [];
  const lines = isText ? [text] : text.split("\n").map((line) => line.trim()).filter(Boolean);
  for (const line of lines) {
    inputs.push(vocabulary.noCharacter);
    for (const character of vocabulary.split(line)) {
      const id = vocabulary.idOf(character), item = { character, id };
      items.push(item);
      if (!isKnown(id)) continue;
      item.step = inputs.length - 1;
      item.read = inputs.push(id) - 1;
    }
    if (!isText) items.push({ character: "\n", id: vocabulary.newline, step: inputs.length - 1 });
  }
  return { items, inputs };
}

function inUnits(nats, digits) {
  return `${rounded(nats, digits)} nats, ${rounded(nats / Math.LN2, digits)} bits`;
}

function readView(app, example) {
  const { isText, vocabulary, data } = app, letters = byId("letters"), text = byId("text");
  const [colour, layer, unit] = [byId("colour"), byId("layer"), byId("unit")];
  let reader, laid = { items: [], inputs: [] }, steps = [], painted = 0, chosen = null, pending = 0;
  text.value = example;
  byId("text-label").textContent = isText ? "Paste a text" : "Type names, one a line";
  layer.max = app.network.layers.length;
  unit.max = app.network.layers[0].size - 1;

  function spanOf({ character, id }) {
    const { sign, spoken } = nameOf(character, isText), isEnd = character === "\n";
    return element("span", {
      className: isKnown(id) ? (isEnd ? "end" : "") : "unknown",
      textContent: character === " " ? " " : isEnd ? "↵\n" : sign,
      attributes: { role: "option", "aria-selected": false, "aria-label": spoken },
    });
  }

  /** Lay the text out again; what stands before the first change stays as it is. */
  function replace() {
    const old = laid.items;
    laid = layOut(vocabulary, isText, text.value);
    const { items } = laid;
    let same = 0;
    for (; same < items.length && old[same]?.character === items[same].character; same++)
      items[same] = old[same];
    for (const { span } of old.slice(same)) span.remove();
    for (const item of items.slice(same)) letters.append((item.span = spanOf(item)));
    painted = Math.min(painted, same);
    if (!items.includes(chosen)) choose(null);
    refresh();
  }

  /** Read on for a short while, so that the page stays quick, and show what was read. */
  function refresh() {
    cancelAnimationFrame(pending);
    if (reader?.network !== app.network) [reader, painted] = [makeReader(app.network), 0];
    steps = reader.read(laid.inputs, SLICE);
    const byUnit = colour.value === "unit", [l, u] = [numberOf(layer) - 1, numberOf(unit)];
    for (const item of laid.items.slice(painted)) {
      const { id, step, read, span } = item;
      if ((read ?? step) >= steps.length) break;
      // The surprisal in nats: -log p(character | all before it).
      item.cost = isKnown(id) ? -Math.log(softmax(steps[step].logits)[id]) : 0;
      const value = byUnit ? steps[read]?.layers[l].h[u] ?? 0 : item.cost / Math.LN2 / MOST_BITS;
      span.style.setProperty("--level", Math.min(1, Math.abs(value)));
      span.style.setProperty("--hue", value < 0 ? "var(--cool)" : "var(--warm)");
      painted++;
    }
    showSum();
    if (steps.length < laid.inputs.length) pending = requestAnimationFrame(refresh);
    else if (chosen) choose(chosen);
  }

  function showSum() {
    const known = laid.items.slice(0, painted).filter(({ id }) => isKnown(id)), num = known.length;
    const total = known.reduce((sum, { cost }) => sum + cost, 0);
    const counts = counted(num, "character") + (isText ? "" : ", ends of names included");
    const [all, mean] = [inUnits(total, 2), inUnits(total / num, 3)];
    byId("sum").textContent =
      leftOut(painted - num) + (num ? `${all} in all; ${mean} a character (${counts}).` : "");
  }

  function recolour() {
    const byUnit = colour.value === "unit", pressed = `${numberOf(layer) - 1} ${numberOf(unit)}`;
    byId("layer-field").hidden = !byUnit || app.network.layers.length === 1;
    byId("unit-field").hidden = !byUnit;
    byId("gradient").className = byUnit ? "unit" : "";
    byId("low").textContent = byUnit ? "−1" : "0";
    byId("high").textContent = byUnit ? "1" : `${MOST_BITS} bits or more`;
    for (const button of byId("units").querySelectorAll("button"))
      button.setAttribute("aria-pressed", byUnit && button.dataset.unit === pressed);
    painted = 0;
    refresh();
  }

  /** Show what the network expected at an item, and which earlier ones that leans on. */
  function choose(item) {
    chosen?.span.setAttribute("aria-selected", false);
    chosen?.span.removeAttribute("id");
    for (const { span, leans } of laid.items) if (leans) span.style.removeProperty("--lean");
    chosen = item;
    byId("detail").hidden = !item;
    if (!item) return;
    item.span.setAttribute("aria-selected", true);
    item.span.id = "chosen";
    const { id, step, cost, character } = item, { sign, spoken } = nameOf(character, isText);
    if (!isKnown(id) || step >= steps.length) {
      byId("detail-text").textContent = isKnown(id) ? "…" : `${spoken}: unknown to the network.`;
      return byId("guesses").replaceChildren();
    }
    const shares = softmax(steps[step].logits);
    const label = sign === spoken ? `“${sign}”` : `${spoken} (${sign})`;
    byId("detail-text").textContent =
      `${label}: probability ${percent(shares[id])}, ${inUnits(cost, 2)}. The likeliest here:`;
    byId("guesses").replaceChildren(...largest(shares, 5).map((guess) =>
      barRow({ ...nameOf(vocabulary.list[guess], isText), p: shares[guess] })));
    // Of the run, step 0 is fresh, and step 1 read "no character".
    const start = laid.inputs.lastIndexOf(vocabulary.noCharacter, step);
    const run = [reader.fresh, ...steps.slice(start, step + 1)];
    const norms = leanings(app.network, run, id, REACH), most = Math.max(...norms.slice(2));
    for (const each of laid.items) {
      each.leans = each.read > start && each.read <= step;
      if (each.leans) each.span.style.setProperty("--lean", norms[each.read - start + 1] / most);
    }
  }

  function chooseAt(event) {
    const item = laid.items.find(({ span }) => span === event.target);
    if (item && item !== chosen) choose(item);
  }

  letters.addEventListener("pointerover", chooseAt);
  letters.addEventListener("click", chooseAt);
  letters.addEventListener("focus", () => chosen ?? choose(laid.items[0]));
  letters.addEventListener("keydown", (event) => {
    const last = laid.items.length - 1, ends = { Home: -last, End: last };
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, ...ends };
    if (!(event.key in moves) || last < 0) return;
    event.preventDefault();
    const place = laid.items.indexOf(chosen) + moves[event.key];
    choose(laid.items[Math.min(last, Math.max(0, place))]);
    chosen.span.scrollIntoView({ block: "nearest" });
  });
  text.addEventListener("input", replace);
  for (const each of [colour, layer, unit]) each.addEventListener("change", recolour);

  byId("units-area").hidden = data.units.length === 0;
  byId("units-note").textContent = data.unitsNote;
  byId("units").append(...data.units.map(([l, u, trait, correlation]) => {
    const place = app.network.layers.length > 1 ? `layer ${l + 1}, unit ${u}` : `unit ${u}`;
    const figure = element("small", { textContent: `${place}, r = ${rounded(correlation, 2)}` });
    const attributes = { "data-unit": `${l} ${u}`, "aria-pressed": false };
    const button = element("button", { type: "button", attributes }, `${trait} `, figure);
    button.addEventListener("click", () => {
      [colour.value, layer.value, unit.value] = ["unit", l + 1, u];
      recolour();
    });
    return element("li", {}, button);
  }));
  replace();
  recolour();
  return refresh;
}
