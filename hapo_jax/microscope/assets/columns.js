// Half precision columns and their predictions; `columns.py` writes what this reads.

const FLOOR = 1e-8;

const wide = new Float32Array(1);
const bits = new Uint32Array(wide.buffer);

// All half precision values, by their ordered number.
const VALUES = new Float32Array(65536);
for (let ordered = 0; ordered < 65536; ordered++) {
  const size = ordered >= 32768 ? ordered - 32768 : 32768 - ordered;
  const exponent = size >> 10, fraction = size & 1023;
  let value = exponent === 0 ? fraction * 2 ** -24
    : exponent === 31 ? (fraction ? NaN : Infinity)
    : (1 + fraction / 1024) * 2 ** (exponent - 15);
  VALUES[ordered] = ordered >= 32768 ? value : -value;
}

// The ordered number of the nearest half precision value, ties to even.
export function half(value) {
  if (Number.isNaN(value)) return 32768 + 0x7e00;
  wide[0] = value;
  const negative = value < 0;
  const size = Math.abs(value);
  let number;
  if (size >= 65520) number = 0x7c00;
  else if (size < 2 ** -14) number = even(size * 2 ** 24);
  else {
    const exponent = ((bits[0] >>> 23) & 255) - 127; // of single precision
    const power = 2 ** exponent > size ? exponent - 1 : exponent; // which rounds up
    number = ((power + 14) << 10) + even(size * 2 ** (10 - power));
  }
  return negative ? 32768 - number : 32768 + number;
}

function even(x) {
  const down = Math.floor(x), rest = x - down;
  if (rest === 0.5) return down + (down & 1);
  return rest > 0.5 ? down + 1 : down;
}

// Puts together what was written as all first bytes, all second bytes, ….
export function fromPlanes(data, kind, size) {
  const width = Number(kind[1]);
  const raw = new Uint8Array(size * width);
  for (let byte = 0; byte < width; byte++) {
    const plane = data.subarray(byte * size, (byte + 1) * size);
    for (let i = 0; i < size; i++) raw[i * width + byte] = plane[i];
  }
  const kinds = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
  return new kinds[kind](raw.buffer);
}

// A column of numbers; `known(name)` gives the columns that it is foretold from.
export function decode(form, data, size, known) {
  if (form.kind === "f4") return fromPlanes(data, "f4", size);
  const stored = fromPlanes(data, "u2", size);
  const values = new Float32Array(size);
  if (form.kind === "f2") {
    for (let i = 0; i < size; i++) values[i] = VALUES[stored[i]];
    return values;
  }
  const guess = RULES[form.rule](form.numbers, ...form.of.map(known));
  for (let i = 0; i < size; i++) {
    const folded = stored[i];
    const distance = folded & 1 ? -(folded + 1) / 2 : folded / 2;
    values[i] = VALUES[(half(guess(i)) + distance) & 65535];
  }
  return values;
}

const log = (x) => Math.log(Math.max(x, FLOOR));
const clip = (x, low, high) => Math.min(Math.max(x, low), high);

const RULES = {
  same: (_, x) => (i) => x[i],
  clipped_log: ([slope, height, low, high], x) => (i) => clip(height + slope * log(x[i]), low, high),
  score: ([up, upHeight, down, downHeight], x) => (i) => {
    const above = upHeight + up * log(x[i]);
    return clip(above > 0 ? above : downHeight + down * log(x[i]), -1, 1);
  },
  exp: ([low, high], x) => (i) => clip(Math.exp(x[i]), low, high),
  exp_minus: ([low, high], x) => (i) => clip(Math.exp(-x[i]), low, high),
  below: ([slope, height], x) => (i) => height + slope * Math.min(x[i], 0),
  above: ([slope, height], x) => (i) => height + slope * Math.max(x[i], 0),
  redistributed: ([strength], base, score, ratio, low, high) => (i) => {
    const inside = ratio[i] > 1 - low[i] / 2 && ratio[i] < 1 + high[i] / 2;
    const scaled = score[i] > 0 ? !inside : inside;
    return base[i] * (scaled ? 1 + strength * score[i] : 1);
  },
  surrogate: (_, ratio, advantage, low, high, weight) => (i) => {
    const bounded = clip(ratio[i], 1 - low[i], 1 + high[i]);
    return -weight[i] * Math.min(ratio[i] * advantage[i], bounded * advantage[i]);
  },
};
