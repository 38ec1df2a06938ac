// An n-gram model with Kneser-Ney smoothing, from its counts.
//
//   P_n(character | context) = (count - D(count)) / total + freed * P_{n-1}(character | shorter)
//
// total is the sum of the counts after the context, freed that of D(count) / total; P_0 is uniform.
// The counts of the highest order are how often an n-gram occurs, those of lower orders how many
// characters precede it. D has three values at each order, for counts of 1, 2, and 3 or more.

/** Numbers of seven bits a byte, lowest first; the eighth bit says that the number goes on. */
function decodeVarints(bytes) {
  const numbers = [];
  let number = 0, scale = 1;
  for (const byte of bytes) {
    number += (byte & 127) * scale;
    scale *= 128;
    if (byte < 128) {
      numbers.push(number);
      [number, scale] = [0, 1];
    }
  }
  return numbers;
}

/**
 * One table for each length. The key of an n-gram is context * vocabSize + character, where the
 * context is the place of the shorter n-gram in its own table; keys are sorted and stored as
 * differences. The number after the last n-gram is the context "start of a name or a text".
 */
function makeNgrams(tables, vocabSize) {
  let numContexts = 1;
  const orders = tables.map(({ keys, counts, discounts }) => {
    let sum = 0;
    const sorted = Float64Array.from(decodeVarints(fromBase64(keys)), (x) => (sum += x));
    const numbers = decodeVarints(fromBase64(counts));
    const totals = new Float64Array(numContexts), freed = new Float64Array(numContexts);
    const discountOf = (count) => discounts[Math.min(count, 3) - 1];
    sorted.forEach((key, i) => {
      const context = Math.floor(key / vocabSize);
      totals[context] += numbers[i];
      freed[context] += discountOf(numbers[i]);
    });
    numContexts = sorted.length + 1;
    const kept = Float64Array.from(numbers, (count) => count - discountOf(count));
    return { keys: sorted, kept, totals, freed };
  });
  return { orders, vocabSize };
}

/** The place of the first key that is not below `key`. */
function lowerBound(keys, key) {
  let low = 0, high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle] < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The probabilities of the character after `ids`, which begin at the start. */
function ngramProbabilities({ orders, vocabSize }, ids) {
  let contexts = orders.map(({ totals }) => totals.length - 1);
  for (const id of ids)
    contexts = orders.map((_, n) => {
      if (n === 0) return 0;
      // After a context never seen, -1, the key is negative, and in no table.
      const { keys } = orders[n - 1], key = contexts[n - 1] * vocabSize + id;
      const place = lowerBound(keys, key);
      return keys[place] === key ? place : -1;
    });
  const probabilities = new Float64Array(vocabSize).fill(1 / vocabSize);
  orders.forEach(({ keys, kept, totals, freed }, n) => {
    const context = contexts[n], total = totals[context];
    // Nothing was seen after this context: the shorter one decides.
    if (!total) return;
    for (let id = 0; id < vocabSize; id++) probabilities[id] *= freed[context] / total;
    for (let i = lowerBound(keys, context * vocabSize); keys[i] < (context + 1) * vocabSize; i++)
      probabilities[keys[i] % vocabSize] += kept[i] / total;
  });
  return probabilities;
}
