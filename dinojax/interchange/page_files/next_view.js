// What may come next after a beginning: the bars of the network and of the n-gram model.

const NUM_BARS = 12;

function nextView(app) {
  const { isText, vocabulary, data } = app, input = byId("beginning"), box = byId("ngrams");
  const ngrams = data.ngrams && makeNgrams(data.ngrams, vocabulary.list.length);
  let reader;
  byId("ngrams-field").hidden = !ngrams;
  byId("ngrams-label").textContent = `a ${data.ngrams?.length}-gram model too (thin bars)`;

  function refresh() {
    if (reader?.network !== app.network) reader = makeReader(app.network);
    const characters = vocabulary.split(isText ? input.value : input.value.replaceAll("\n", ""));
    const ids = characters.map(vocabulary.idOf).filter(isKnown);
    const { logits } = reader.read([vocabulary.noCharacter, ...ids]).at(-1);
    const { temperature, topP } = app.controls;
    const shares = controlled(logits, temperature, topP);
    // The n-gram model is reshaped in the same way.
    const others = ngrams && box.checked &&
      controlled(ngramProbabilities(ngrams, ids).map(Math.log), temperature, topP);
    const likeliest = largest(shares, NUM_BARS).filter((id) => shares[id] > 0);
    // The longest bar fills the row, up to the next quarter.
    const full = Math.ceil(4 * shares[likeliest[0]]) / 4;
    const focused = document.activeElement?.dataset.id, list = byId("bars");
    list.replaceChildren(...likeliest.map((id) => {
      const character = vocabulary.list[id], ends = character === "\n" && !isText;
      const onPress = () => {
        input.value += character;
        refresh();
      };
      const row = barRow({
        ...nameOf(character, isText),
        p: shares[id],
        other: others?.[id],
        full,
        onPress: ends ? undefined : onPress,
      });
      row.firstChild.dataset.id = id;
      return row;
    }));
    // A press on a row replaces it; the focus stays in the list.
    if (focused !== undefined) {
      const same = list.querySelector(`button[data-id="${focused}"]`);
      (same ?? list.querySelector("button") ?? input).focus();
    }
    const possible = shares.reduce((num, p) => num + (p > 0), 0);
    byId("next-note").textContent = leftOut(characters.length - ids.length) +
      `${counted(possible, "character")} possible; the bars show the likeliest.`;
  }

  input.addEventListener("input", refresh);
  box.addEventListener("change", refresh);
  return refresh;
}
