// Starts the page: the data, what all views share, and the checkpoint that they use.

const data = JSON.parse(byId("data").textContent);
const networks = [];
const app = {
  data,
  isText: data.isText,
  vocabulary: makeVocabulary(data),
  /** Training names as lists of characters, or null where the page holds none. */
  names: data.names && data.names.map((name) => Array.from(name)),
  controls: { temperature: 1, topP: 1 },
  network: null,
};

function useCheckpoint(place) {
  const { step, weights } = data.checkpoints[place];
  app.network = networks[place] ??= makeNetwork(data, weights);
  byId("steps").textContent = `after ${counted(step, "step")}`;
  byId("checkpoint").setAttribute("aria-valuetext", byId("steps").textContent);
}

document.title = data.title;
byId("title").textContent = data.title;
byId("lead").textContent = data.lead;
byId("facts").append(...data.facts.flatMap(([label, value]) =>
  [element("dt", { textContent: label }), element("dd", { textContent: value })]));
for (const note of data.notes) byId("notes").append(element("li", { textContent: note }));

const slider = byId("checkpoint");
slider.max = data.checkpoints.length - 1;
slider.value = data.start;
byId("training").hidden = data.checkpoints.length === 1;
useCheckpoint(data.start);

const [writeAgain, nextAgain] = [writeView(app), nextView(app)];
writeAgain();
nextAgain();
const readAgain = readView(app, exampleText(app));

let pause = 0;
/** Writes once no slider has moved for a moment, as that takes longer than a slider should wait. */
function writeSoon() {
  clearTimeout(pause);
  pause = setTimeout(writeAgain, 120);
}

/** The sliders for temperature and top-p stand in two places and move together. */
const sliders = document.querySelectorAll("[data-sets]");
function showControls() {
  for (const each of sliders) each.value = app.controls[each.dataset.sets];
  for (const each of document.querySelectorAll("[data-shows]"))
    each.textContent = app.controls[each.dataset.shows].toFixed(2);
}
for (const each of sliders)
  each.addEventListener("input", () => {
    app.controls[each.dataset.sets] = Number(each.value);
    showControls();
    nextAgain();
    writeSoon();
  });
slider.addEventListener("input", () => {
  useCheckpoint(Number(slider.value));
  for (const again of [nextAgain, readAgain, writeSoon]) again();
});
showControls();
