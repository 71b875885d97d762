// Text of models as text: nothing is hidden and nothing acts.

export const LONGEST = 60; // characters of a token that the strip shows

const PICTURES = new Map([[" ", "·"], ["\n", "↵"], ["\r", "␍"], ["\t", "⇥"], ["\x7f", "␡"]]);

// Control characters, invisible ones, those that turn the direction, and halves of
// characters: all that would not be seen, or would change what is seen around it.
const HIDDEN = /[\x00-\x20\x7f-\xa0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|\udb40[\udc00-\udfff]/g;

function picture(character) {
  if (PICTURES.has(character)) return PICTURES.get(character);
  const code = character.codePointAt(0);
  if (code < 32) return String.fromCharCode(0x2400 + code);
  return `⟨${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

// White space and what cannot be seen, made visible.
export function visible(text) {
  return text.replace(HIDDEN, picture);
}

// The same, cut to what a line has room for.
export function short(text, longest = LONGEST) {
  const cut = text.length > longest ? `${text.slice(0, longest)}…` : text;
  return visible(cut);
}

// A paragraph: line breaks and spaces act, all else is made visible.
export function paragraph(text, longest = 20000) {
  const cut = text.length > longest
    ? `${text.slice(0, longest)}… (${text.length.toLocaleString("en")} characters)` : text;
  return cut.replace(HIDDEN, (c) => (c === " " || c === "\n" ? c : picture(c)));
}

// Places at which a text occurs, [from, to) in characters; of any case unless a capital
// is asked for.
export function occurrences(text, wanted) {
  if (!wanted) return [];
  const same = wanted === wanted.toLowerCase() && text.toLowerCase().length === text.length;
  const where = same ? text.toLowerCase() : text;
  const found = [];
  for (let at = where.indexOf(wanted); at >= 0; at = where.indexOf(wanted, at + wanted.length)) {
    found.push([at, at + wanted.length]);
  }
  return found;
}

// Numbers with three digits, which is what is exact (`columns.py`).
export function number(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x === Infinity) return "∞";
  if (x === -Infinity) return "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e5 || size < 1e-4 ? x.toExponential(digits - 1)
    : size >= 10 ** digits ? x.toFixed(0)
    : x.toPrecision(digits);
  return text.replace("e+", "e").replaceAll("-", "−");
}

// On an axis: as short as it can be.
export function tick(x) {
  if (x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e6)) return x.toExponential(1).replace(".0e", "e").replace("e+", "e").replaceAll("-", "−");
  return String(Number(x.toPrecision(4))).replaceAll("-", "−");
}

export const percent = (share) => (Number.isFinite(share) ? `${number(100 * share)} %` : "–");
export const count = (n) => n.toLocaleString("en");
