// What is known of a token, and its place in the formulas.

import { runs } from "microscope/data";
import { number } from "microscope/text";

// scale: "rise" from least to most; "zero" and "one" diverge there, "one" in logarithms.
export const QUANTITIES = [
  { id: "entropy", label: "entropy", unit: "nats", scale: "rise", floor: 0 },
  { id: "old_entropy", label: "entropy before the update", unit: "nats", scale: "rise", floor: 0 },
  { id: "entropy_score", label: "entropy score", unit: "", scale: "zero", bound: 1 },
  { id: "temperature", label: "temperature", unit: "", scale: "base" },
  { id: "behavior_logprobs", label: "behavior log-prob", unit: "nats", scale: "fall" },
  { id: "old_logprobs", label: "old log-prob", unit: "nats", scale: "fall" },
  { id: "logprobs", label: "new log-prob", unit: "nats", scale: "fall" },
  { id: "old_behavior", label: "old − behavior log-prob", unit: "nats", scale: "zero" },
  { id: "log_ratio", label: "new − old log-prob", unit: "nats", scale: "zero" },
  { id: "new_behavior", label: "new − behavior log-prob", unit: "nats", scale: "zero" },
  { id: "ratio", label: "ratio", unit: "", scale: "one" },
  { id: "base_advantages", label: "advantage before redistribution", unit: "", scale: "zero" },
  { id: "advantages", label: "advantage", unit: "", scale: "zero" },
  { id: "factor", label: "advantage after ÷ before", unit: "", scale: "unit" },
  { id: "importance_weight", label: "importance weight", unit: "", scale: "one" },
  { id: "loss", label: "loss", unit: "", scale: "zero" },
  { id: "clip_width", label: "width of the clip range", unit: "", scale: "rise" },
  { id: "clip_low", label: "clip width below 1", unit: "", scale: "rise" },
  { id: "clip_high", label: "clip width above 1", unit: "", scale: "rise" },
  { id: "cut_logit", label: "cut of the logits", unit: "", scale: "rise" },
];
export const quantity = (id) => QUANTITIES.find((q) => q.id === id) ?? QUANTITIES[0];

const SOURCES = {
  old_behavior: ["behavior_gap"],
  new_behavior: ["log_ratio", "behavior_gap"],
  factor: ["advantages", "base_advantages"],
  clip_width: ["clip_low", "clip_high"],
};
const DERIVED = {
  old_behavior: (block) => map(block.column("behavior_gap"), (x) => (x === 0 ? 0 : -x)),
  new_behavior: (block) => zip(block.column("log_ratio"), block.column("behavior_gap"), (x, y) => x - y),
  factor: (block) => zip(block.column("advantages"), block.column("base_advantages"), (x, y) => x / y),
  clip_width: (block) => zip(block.column("clip_low"), block.column("clip_high"), (x, y) => x + y),
};

const map = (x, f) => x && x.map(f);
const zip = (x, y, f) => x && y && x.map((value, i) => f(value, y[i]));

// The values of a quantity for all tokens of a block; null where it was not recorded.
export function values(block, id) {
  if (!DERIVED[id]) return block.column(id);
  const key = `derived ${id}`;
  if (!block.columns.has(key)) block.columns.set(key, DERIVED[id](block));
  return block.columns.get(key);
}

// The quantities that were recorded.
export const there = (block) => QUANTITIES.filter(({ id }) => (SOURCES[id] ?? [id]).every((name) => block.has(name)));

// Which tokens count as uncertain: by the entropy score, or where the method has none
// by the quantile of the entropy.
export function side(block) {
  const known = block.columns.get("side");
  if (known) return known;
  const score = block.column("entropy_score");
  let found;
  if (score && score.some((x) => x !== 0)) {
    found = { uncertain: (i) => score[i] > 0, words: "entropy score above 0" };
  } else {
    const entropy = block.column("old_entropy") ?? block.column("entropy");
    const share = runs[block.run].formulas.quantile ?? 0.8;
    const sorted = entropy.slice().sort();
    const border = sorted[Math.round(share * (sorted.length - 1))] ?? 0;
    found = {
      uncertain: (i) => entropy[i] > border,
      words: `entropy above ${number(border)} nats, the ${number(100 * share)} % quantile of what is shown of the step`,
    };
  }
  block.columns.set("side", found);
  return found;
}

// What the formulas did to a token: [title, sentence, formula] each.
export function places(block, i) {
  const formulas = runs[block.run].formulas;
  const at = (id) => values(block, id)?.[i] ?? NaN;
  const found = [];
  const score = at("entropy_score"), ratio = at("ratio");
  const low = at("clip_low"), high = at("clip_high");
  found.push(["Temperature", temperature(formulas, at), null]);
  if (Number.isFinite(score)) {
    const words = score > 0 ? "uncertain: above the quantile" : score < 0 ? "confident: below the quantile" : "score 0: at the quantile, or no stage reads it";
    found.push(["Entropy score", words, `h̃ = ${number(score)}`]);
  }
  found.push(["Redistribution", ...redistribution(formulas, { score, ratio, low, high, before: at("base_advantages"), after: at("advantages") })]);
  found.push(["Clip range", ...bounds(block, i, { ratio, low, high, advantage: at("advantages") })]);
  return found;
}

function temperature(formulas, at) {
  const T = at("temperature"), base = formulas.baseTemperature;
  if (!Number.isFinite(T)) return "not recorded";
  if (!formulas.temperatureStrength || !base) return `T = ${number(T)}, not adaptive`;
  const factor = T / base;
  const near = (x) => x && Math.abs(factor - x) < 2e-3;
  if (near(formulas.minFactor)) return `T = ${number(T)}, at its lower bound`;
  if (near(formulas.maxFactor)) return `T = ${number(T)}, at its upper bound`;
  const words = Math.abs(factor - 1) < 1e-3 ? "at the base temperature" : factor < 1 ? "cooler: confident" : "hotter: uncertain";
  return `T = ${number(T)}, ${words} (T_base = ${number(base)})`;
}

function redistribution(formulas, { score, ratio, low, high, before, after }) {
  if (formulas.shaping !== "redistribute" || !formulas.strength) {
    return ["this method leaves the advantage as it is", `A = ${number(after)}`];
  }
  if (before === 0) return ["no advantage: nothing to redistribute", "A = 0"];
  const zone = formulas.zone === "base" ? [formulas.low, formulas.high] : [low, high];
  const from = 1 - zone[0] / 2, to = 1 + zone[1] / 2;
  const inside = ratio > from && ratio < to;
  const scaled = score > 0 ? !inside : inside;
  const where = `r = ${number(ratio)} ${inside ? "inside" : "outside"} Z = (${number(from)}, ${number(to)})`;
  const words = score > 0
    ? (scaled ? "uncertain and moved: grows" : "uncertain, not moved yet: stays")
    : (scaled ? "confident, not moved: shrinks" : "confident and moved: stays");
  const formula = scaled
    ? `A (1 + ${number(formulas.strength)} · ${number(score)}): ${number(before)} → ${number(after)}`
    : `A = ${number(after)}`;
  return [`${words}; ${where}`, formula];
}

function bounds(block, i, { ratio, low, high, advantage }) {
  const range = `[${number(1 - low)}, ${number(1 + high)}]`;
  const lost = runs[block.run].formulas.surrogate === "ppo" ? ": no gradient" : "";
  const acts = block.dualClipped(i) ? "the dual bound acts: the ratio is far above 1 and A < 0"
    : block.clippedLow(i) ? `the lower bound acts${lost}`
    : block.clippedHigh(i) ? `the upper bound acts${lost}`
    : !block.counted(i) ? "not in the loss's denominator"
    : advantage === 0 ? "no advantage, so no bound can act"
    : `no bound acts; for A ${advantage > 0 ? "> 0 the upper" : "< 0 the lower"} one would`;
  return [acts, `r = ${number(ratio)} in ${range}`];
}
