// Small helpers for the page. Text from the data reaches the page as text, never as HTML.

const byId = (id) => document.getElementById(id);

/** A new element with properties, such as `className`, with `attributes` and with children. */
function element(tag, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const counted = (num, noun) => `${num.toLocaleString("en")} ${noun}${num === 1 ? "" : "s"}`;

function percent(p) {
  return `${p === 0 || p > 0.9995 ? Math.round(100 * p) : (100 * p).toPrecision(2)} %`;
}

function rounded(x, digits) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return x.toLocaleString("en", options).replace("-", "−");
}

/** One over a probability: "1 in 29 million", or a power of ten. */
function odds(logProbability) {
  const power = Math.round(-logProbability / Math.LN10);
  const raised = (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit];
  if (power >= 15) return `1 in 10${Array.from(String(power), raised).join("")}`;
  const options = { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 2 };
  return `1 in ${Math.exp(-logProbability).toLocaleString("en", options)}`;
}

/** A sentence about characters that the network does not know, if there are any. */
function leftOut(num) {
  return num ? `Unknown to the network, and left out: ${counted(num, "character")}. ` : "";
}

/** The ids of the `num` largest of some numbers, largest first. */
function largest(numbers, num) {
  const ids = Array.from(numbers, (_, id) => id);
  return ids.sort((a, b) => numbers[b] - numbers[a]).slice(0, num);
}

/**
 * A row of a list of bars: a character and its probability, and that of a second model, if any.
 * A bar for the probability `full` fills the row. With `onPress`, the row is a button.
 */
function barRow({ sign, spoken, p, other, full = 1, onPress }) {
  const bars = element("span"), shares = other === undefined ? [p] : [p, other];
  for (const share of shares) {
    const bar = element("span", { className: "bar" });
    bar.style.setProperty("--length", Math.min(1, share / full));
    bars.append(bar);
  }
  const label = `${spoken}: ${shares.map(percent).join(", n-gram model ")}`;
  const row = element(
    onPress ? "button" : "span",
    { className: "row", attributes: onPress ? { type: "button", "aria-label": label } : {} },
    element("span", { className: "sign", textContent: sign }),
    bars,
    element("span", { className: "percent", textContent: percent(p) }),
  );
  if (onPress) row.addEventListener("click", onPress);
  return element("li", {}, row);
}

/** How a character is written in a list, and how it is spoken. */
function nameOf(character, isText) {
  if (character === "\n" && !isText) return { sign: "end", spoken: "end of the name" };
  return { sign: visible(character), spoken: SPOKEN[character] ?? character };
}

/** A whole number from an input, within its bounds; the input shows it. */
function numberOf(input) {
  const [min, max] = [Number(input.min), Number(input.max)];
  const value = Math.min(max, Math.max(min, Math.round(Number(input.value)) || 0));
  if (String(value) !== input.value) input.value = value;
  return value;
}

/**
 * Reads ids with a network, again only from where they differ from those read before. "No
 * character" starts afresh.
 */
function makeReader(network) {
  const fresh = freshStep(network), steps = [];
  return {
    network,
    fresh,
    /** The steps of the first of `inputs`: of all of them, unless the time (ms) is over before. */
    read(inputs, milliseconds = Infinity) {
      const end = performance.now() + milliseconds;
      let same = 0;
      while (same < steps.length && steps[same].id === inputs[same]) same++;
      steps.length = same;
      while (steps.length < inputs.length && performance.now() < end) {
        const id = inputs[steps.length];
        steps.push(nextStep(network, id === network.vocabSize ? fresh : steps.at(-1), id));
      }
      return steps;
    },
  };
}
