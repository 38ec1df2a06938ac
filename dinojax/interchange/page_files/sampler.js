// Randomness, and how the next character is drawn.

/**
 * A function that returns uniform numbers in [0, 1): the generator sfc32 of Chris Doty-Humphrey.
 * JAX has another, so a seed gives other names here than in dinojax, from the same distribution.
 */
function generator(seed) {
  let a = 0, b = seed | 0, c = Math.floor(seed / 2 ** 32) | 0, counter = 1;
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return (sum >>> 0) / 2 ** 32;
  };
  // The first numbers still show the seed.
  for (let i = 0; i < 15; i++) next();
  return next;
}

/** exp(x_i) / sum_j exp(x_j) */
function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((x) => Math.exp(x - most)), sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}

/**
 * The probabilities that characters are drawn with: softmax(logits / temperature), of which the
 * fewest likeliest that sum to `topP` or more are kept, with those as likely as the last of them
 * (Holtzman et al., 2020). At temperature 0, the likeliest is certain.
 */
function controlled(logits, temperature, topP) {
  const likeliest = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
  if (temperature <= 0) return logits.map((_, i) => Number(i === likeliest));
  const shares = softmax(logits.map((x) => x / temperature));
  if (topP >= 1) return shares;
  const descending = Array.from(shares).sort((a, b) => b - a);
  let least = descending[0];
  for (let i = 0, before = 0; i < descending.length && before < topP; before += descending[i++])
    least = descending[i];
  const kept = shares.map((p) => (p >= least ? p : 0)), sum = kept.reduce((a, b) => a + b);
  return kept.map((p) => p / sum);
}

/** The first id at which the cumulative probability exceeds a uniform number. */
function draw(probabilities, uniform) {
  let id = -1, passed = 0;
  for (let i = 0; i < probabilities.length && passed <= uniform; i++) {
    // Rounding may keep the sum below the number: then it is the last that is possible.
    if (probabilities[i] > 0) id = i;
    passed += probabilities[i];
  }
  return id;
}

/**
 * Continue from `step` until `newline` (-1: never) or for `length` characters. Returns the ids, the
 * step after them, whether newline ended them, and the log-probability of what was drawn under the
 * model itself, in nats.
 */
function write(network, step, random, { temperature, topP, length, newline }) {
  const ids = [];
  let logProbability = 0, ended = false;
  while (ids.length < length) {
    const id = draw(controlled(step.logits, temperature, topP), random());
    logProbability += Math.log(softmax(step.logits)[id]);
    ended = id === newline;
    if (ended) break;
    ids.push(id);
    step = nextStep(network, step, id);
  }
  return { ids, step, ended, logProbability };
}
