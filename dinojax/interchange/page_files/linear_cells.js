// Cells with a linear recurrence; for `forward` and `backward` see engine.js. The memory c is the
// state of the recurrence, h what the layer above reads.

/** log(1 + exp(x)). */
function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** GELU approximated by tanh, and its derivative. */
function gelu(x) {
  const s = GATES.sigmoid.of(Math.sqrt(8 / Math.PI) * (x + 0.044715 * x ** 3));
  const slope = Math.sqrt(8 / Math.PI) * (1 + 0.134145 * x * x) * GATES.sigmoid.slope(s);
  return { value: x * s, slope: s + x * slope };
}

const LINEAR_CELLS = {
  // c' = (1 - z) c + z n      h' = c'
  mingru: () =>
    realCell(([z, n]) => {
      const value = GATES.sigmoid.of(z), slope = GATES.sigmoid.slope(value);
      return {
        decay: 1 - value, term: value * n, factor: 1,
        slopes: [[-slope, slope * n, 0], [0, value, 0]],
      };
    }),

  // c' = f / (f + i) c + i / (f + i) n      h' = c'
  minlstm: () =>
    realCell(([i, f, n]) => {
      const { of, slope } = GATES.sigmoid, kept = of(softplus(-i) - softplus(-f));
      const slopes = [-of(-i), of(-f)].map((x) => [x * slope(kept), -x * slope(kept) * n, 0]);
      return {
        decay: kept, term: (1 - kept) * n, factor: 1, slopes: [...slopes, [0, 1 - kept, 0]],
      };
    }),

  // log a = -8 softplus(-L) r      c' = a c + sqrt(1 - a^2) i n      h' = c' gelu(g)
  rglru: () =>
    realCell(([r, i, n, g], decay) => {
      const { of, slope } = GATES.sigmoid, rate = 8 * softplus(-decay), input = of(i);
      const log = -rate * of(r), square = -Math.expm1(2 * log), branch = gelu(g);
      const root = Math.sqrt(Math.max(square, 1e-6)), dLog = -rate * slope(of(r));
      const dRoot = square > 1e-6 ? (square - 1) / root : 0;
      return {
        decay: Math.exp(log), term: root * input * n, factor: branch.value,
        slopes: [
          [dLog * Math.exp(log), dLog * dRoot * input * n, 0],
          [0, root * slope(input) * n, 0], [0, root * input, 0], [0, 0, branch.slope],
        ],
      };
    }),

  // c' = exp(-exp(nu) + i exp(theta)) c + exp(gamma) b      h' = gelu(Re(c' C) + d)
  lru: () => ({
    forward(layer, a, old) {
      const { num, real, imaginary, scale } = complexDecays(layer);
      const c = new Float32Array(2 * num), y = a.slice(2 * num);
      for (let k = 0, i = num; k < num; k++, i++) {
        c[k] = real[k] * old.c[k] - imaginary[k] * old.c[i] + scale[k] * a[k];
        c[i] = real[k] * old.c[i] + imaginary[k] * old.c[k] + scale[k] * a[i];
      }
      addProduct(y, c, layer.output_kernel);
      return { h: Float32Array.from(y, (x) => gelu(x).value), c, y };
    },
    backward(layer, { y }, old, dh, dc) {
      const { num, real, imaginary, scale } = complexDecays(layer), d = dc.slice();
      const dy = dh.map((x, k) => x * gelu(y[k]).slope), da = new Float64Array(2 * num + y.length);
      addTransposed(d, dy, layer.output_kernel);
      const dMemory = d.slice();
      for (let k = 0, i = num; k < num; k++, i++) {
        da[k] = scale[k] * d[k];
        da[i] = scale[k] * d[i];
        dMemory[k] = real[k] * d[k] + imaginary[k] * d[i];
        dMemory[i] = real[k] * d[i] - imaginary[k] * d[k];
      }
      da.set(dy, 2 * num);
      return { da, dh: new Float64Array(dh.length), dc: dMemory };
    },
  }),
};

// c' = decay c + term      h' = factor c'
//
// `unit` computes these three numbers of a unit from the arguments of its gates and its parameter
// `decay`, and `slopes`: for each gate, the derivatives of the three.
function realCell(unit) {
  return {
    forward(layer, a, old) {
      const size = layer.size, num = a.length / size;
      const units = Array.from({ length: size }, (_, k) =>
        unit(Array.from({ length: num }, (_, gate) => a[gate * size + k]), layer.decay?.[k]));
      const c = Float32Array.from(units, ({ decay, term }, k) => decay * old.c[k] + term);
      return { h: c.map((x, k) => x * units[k].factor), c, units };
    },
    backward(layer, { c, units }, old, dh, dc) {
      const size = layer.size, da = new Float64Array(units[0].slopes.length * size);
      const dMemory = new Float64Array(size);
      units.forEach(({ decay, factor, slopes }, k) => {
        const d = dc[k] + dh[k] * factor;
        slopes.forEach(([dDecay, dTerm, dFactor], gate) => {
          da[gate * size + k] = d * (dDecay * old.c[k] + dTerm) + dh[k] * c[k] * dFactor;
        });
        dMemory[k] = d * decay;
      });
      return { da, dh: new Float64Array(size), dc: dMemory };
    },
  };
}

/** The decays of an LRU and the factors of its terms. */
function complexDecays({ log_rate, log_phase, log_scale }) {
  const radius = log_rate.map((x) => Math.exp(-Math.exp(x)));
  return {
    num: log_rate.length,
    real: radius.map((x, k) => x * Math.cos(Math.exp(log_phase[k]))),
    imaginary: radius.map((x, k) => x * Math.sin(Math.exp(log_phase[k]))),
    scale: log_scale.map(Math.exp),
  };
}
