// The network: its weights, one step of each cell, the readout, and the backward pass.
//
// Vectors are rows, as in dinojax: a layer computes x W, with W [inputs, outputs] in row order.
// A "step" keeps all that the backward pass needs.

/** The bytes that a base64 text encodes. */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Number with the 16 bits of an IEEE half: sign, 5 bits of exponent e, 10 bits of fraction f. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, e = (bits >> 10) & 31, f = bits & 1023;
  return sign * (e ? 2 ** (e - 15) * (1 + f / 1024) : (2 ** -14 * f) / 1024);
}

/** Little-endian numbers, of 2 or 4 bytes each. */
function decodeNumbers(bytes, size) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const numbers = new Float32Array(bytes.byteLength / size);
  for (let i = 0; i < numbers.length; i++)
    numbers[i] = size === 2 ? half(view.getUint16(2 * i, true)) : view.getFloat32(4 * i, true);
  return numbers;
}

/**
 * A network from the arrays of one checkpoint, which stand end to end in the order of `shapes`:
 * [["layers/0/bias", [150]], ...].
 */
function makeNetwork({ cell, gate, shapes, bytesPerNumber }, weights) {
  const numbers = decodeNumbers(fromBase64(weights), bytesPerNumber);
  const layers = [], readout = {};
  let start = 0;
  for (const [path, shape] of shapes) {
    const size = shape.reduce((a, b) => a * b, 1), [group, ...rest] = path.split("/");
    const owner = group === "readout" ? readout : (layers[rest[0]] ??= {});
    owner[rest.at(-1)] = numbers.subarray(start, (start += size));
  }
  const vocabSize = readout.bias.length, makeCell = CELLS[cell] ?? LINEAR_CELLS[cell];
  for (const layer of layers) layer.size = readout.kernel.length / vocabSize;
  return { layers, readout, cell: makeCell(GATES[gate]), vocabSize };
}

/** y += x W, or, of a kernel with more columns, W's columns from `first` on. */
function addProduct(y, x, kernel, columns = y.length, first = 0) {
  for (let i = 0, at = first; i < x.length; i++, at += columns) {
    const factor = x[i];
    if (factor !== 0) for (let j = 0; j < y.length; j++) y[j] += factor * kernel[at + j];
  }
}

/** x += y W^T, which carries a gradient with respect to x W back to x. */
function addTransposed(x, y, kernel, columns = y.length, first = 0) {
  for (let i = 0, at = first; i < x.length; i++, at += columns) {
    let sum = 0;
    for (let j = 0; j < y.length; j++) sum += y[j] * kernel[at + j];
    x[i] += sum;
  }
}

// A gate's function, and its derivative as a function of its value.
const GATES = {
  sigmoid: { of: (x) => 1 / (1 + Math.exp(-x)), slope: (y) => y * (1 - y) },
  hard_sigmoid: {
    of: (x) => Math.min(1, Math.max(0, 0.2 * x + 0.5)),
    slope: (y) => (y > 0 && y < 1 ? 0.2 : 0),
  },
};

// Each cell has `forward(layer, a, old)`: the new step, from a = x W_x + b and the old step. And
// `backward(layer, step, old, dh, dc)`: the gradients with respect to a, to the old output h and,
// where there is one, to the old memory c. The old step of a fresh state has h = c = 0.
const CELLS = {
  // h' = tanh(a + h W_h)
  vanilla: () => ({
    forward(layer, a, old) {
      addProduct(a, old.h, layer.recurrent_kernel);
      return { h: Float32Array.from(a, Math.tanh) };
    },
    backward(layer, { h }, old, dh) {
      const da = dh.map((x, i) => x * (1 - h[i] * h[i])), dOld = new Float64Array(h.length);
      addTransposed(dOld, da, layer.recurrent_kernel);
      return { da, dh: dOld };
    },
  }),

  gru: (gate) => gru(gate, false),
  gru_reset_before: (gate) => gru(gate, true),

  // (i, f, o) = gate(a + h W_h)      g = tanh(a_g + h W_g)
  // c' = f c + i g                   h' = o tanh(c')
  lstm: (gate) => ({
    forward(layer, a, old) {
      const size = layer.size;
      addProduct(a, old.h, layer.recurrent_kernel);
      const [i, f, g, o, c, h] = Array.from({ length: 6 }, () => new Float32Array(size));
      for (let k = 0; k < size; k++) {
        i[k] = gate.of(a[k]);
        f[k] = gate.of(a[size + k]);
        g[k] = Math.tanh(a[2 * size + k]);
        o[k] = gate.of(a[3 * size + k]);
        c[k] = f[k] * old.c[k] + i[k] * g[k];
        h[k] = o[k] * Math.tanh(c[k]);
      }
      return { h, c, i, f, g, o };
    },
    backward(layer, { c, i, f, g, o }, old, dh, dc) {
      const size = layer.size, da = new Float64Array(4 * size), dMemory = new Float64Array(size);
      for (let k = 0; k < size; k++) {
        const squashed = Math.tanh(c[k]);
        const d = dc[k] + dh[k] * o[k] * (1 - squashed * squashed);
        da[k] = d * g[k] * gate.slope(i[k]);
        da[size + k] = d * old.c[k] * gate.slope(f[k]);
        da[2 * size + k] = d * i[k] * (1 - g[k] * g[k]);
        da[3 * size + k] = dh[k] * squashed * gate.slope(o[k]);
        dMemory[k] = d * f[k];
      }
      const dOld = new Float64Array(size);
      addTransposed(dOld, da, layer.recurrent_kernel);
      return { da, dh: dOld, dc: dMemory };
    },
  }),
};

// r = gate(a_r + h W_r)      z = gate(a_z + h W_z)      h' = (1 - z) n + z h
// n = tanh(a_n + r m) with m = h W_n + b_n, or, where r acts before the product,
// n = tanh(a_n + m) with m = (r h) W_n
function gru(gate, before) {
  return {
    forward(layer, a, old) {
      const { size, recurrent_kernel: kernel } = layer, fromState = new Float64Array(2 * size);
      addProduct(fromState, old.h, kernel, 3 * size);
      const [r, z, n, h] = Array.from({ length: 4 }, () => new Float32Array(size));
      for (let i = 0; i < size; i++) {
        r[i] = gate.of(a[i] + fromState[i]);
        z[i] = gate.of(a[size + i] + fromState[size + i]);
      }
      const read = before ? r.map((x, i) => x * old.h[i]) : old.h;
      const m = before ? new Float64Array(size) : Float64Array.from(layer.candidate_bias);
      addProduct(m, read, kernel, 3 * size, 2 * size);
      for (let i = 0; i < size; i++) {
        n[i] = Math.tanh(a[2 * size + i] + (before ? 1 : r[i]) * m[i]);
        h[i] = (1 - z[i]) * n[i] + z[i] * old.h[i];
      }
      return { h, r, z, n, m };
    },
    backward(layer, { r, z, n, m }, old, dh) {
      const { size, recurrent_kernel: kernel } = layer, da = new Float64Array(3 * size);
      const dn = da.subarray(2 * size), dRead = new Float64Array(size);
      for (let i = 0; i < size; i++) dn[i] = dh[i] * (1 - z[i]) * (1 - n[i] * n[i]);
      const dm = before ? dn : dn.map((d, i) => d * r[i]);
      addTransposed(dRead, dm, kernel, 3 * size, 2 * size);
      for (let i = 0; i < size; i++) {
        da[i] = (before ? dRead[i] * old.h[i] : dn[i] * m[i]) * gate.slope(r[i]);
        da[size + i] = dh[i] * (old.h[i] - n[i]) * gate.slope(z[i]);
      }
      const dOld = dh.map((d, i) => d * z[i] + dRead[i] * (before ? r[i] : 1));
      addTransposed(dOld, da.subarray(0, 2 * size), kernel, 3 * size);
      return { da, dh: dOld };
    },
  };
}

/** Numbers in the memory of a layer: those of an LRU are complex, so that it has an even number. */
function memorySize({ size }) {
  return size + (size % 2);
}

/** The step before the first, with a fresh state. */
function freshStep({ layers }) {
  const fresh = (layer) => ({
    h: new Float32Array(layer.size), c: new Float32Array(memorySize(layer)),
  });
  return { layers: layers.map(fresh) };
}

/**
 * Read one character, by its id; the id `vocabSize` is "no character", which starts a name or a
 * text. The logits of the next character are h W + b, with h the output of the last layer.
 */
function nextStep(network, old, id) {
  const { layers, readout, cell, vocabSize } = network;
  // A character is a one-hot vector; "no character" is the zero vector.
  let below = new Float64Array(vocabSize);
  if (id < vocabSize) below[id] = 1;
  const steps = layers.map((layer, k) => {
    const a = Float64Array.from(layer.bias);
    addProduct(a, below, layer.input_kernel);
    const step = cell.forward(layer, a, old.layers[k]);
    below = step.h;
    return step;
  });
  const logits = Float64Array.from(readout.bias);
  addProduct(logits, below, readout.kernel);
  return { id, layers: steps, logits };
}

/**
 * How much the prediction of `target` after the last of `steps` leans on each character read:
 * |d(-log p(target)) / dx_s|, with x_s the one-hot vector of the character that step s read.
 * Goes back by up to `reach` steps; `steps[0]` is the fresh state.
 */
function leanings(network, steps, target, reach) {
  const { layers, readout, cell, vocabSize } = network, norms = new Float64Array(steps.length);
  const last = steps.at(-1);
  // d(-log softmax(logits)[target]) / dlogits = softmax(logits) - onehot(target)
  const dLogits = softmax(last.logits).map((p, i) => p - (i === target));
  const carried = layers.map((layer) => ({
    dh: new Float64Array(layer.size), dc: new Float64Array(memorySize(layer)),
  }));
  addTransposed(carried.at(-1).dh, dLogits, readout.kernel);
  for (let s = steps.length - 1; s > 0 && s >= steps.length - reach; s--) {
    for (let k = layers.length - 1; k >= 0; k--) {
      const { dh, dc } = carried[k], [now, old] = [steps[s].layers[k], steps[s - 1].layers[k]];
      const { da, ...earlier } = cell.backward(layers[k], now, old, dh, dc);
      carried[k] = earlier;
      const dx = new Float64Array(k ? layers[k - 1].size : vocabSize);
      addTransposed(dx, da, layers[k].input_kernel);
      if (k) for (let j = 0; j < dx.length; j++) carried[k - 1].dh[j] += dx[j];
      else norms[s] = Math.sqrt(dx.reduce((sum, x) => sum + x * x, 0));
    }
  }
  return norms;
}
