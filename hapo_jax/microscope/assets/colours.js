// Scales of colour: rising for what has one end, diverging around 0, 1 or the base
// temperature. Blue against orange and a ramp of even lightness are told apart by
// colour-blind readers; text on them is dark or light, whichever reads better.

import { runs } from "microscope/data";
import { quantity, values } from "microscope/quantities";
import { number } from "microscope/text";

export const LEVELS = 25;
const STOPS = {
  light: {
    rise: ["#ffffff", "#e6f3e0", "#b4dfc4", "#62bab5", "#2c82a3", "#254a8a", "#2b1f5e"],
    turn: ["#174f91", "#5b96d0", "#bfd9f0", "#ffffff", "#fbdcbd", "#ee9b50", "#ac4a06"],
  },
  dark: {
    rise: ["#1b1d21", "#26325a", "#2a5c87", "#2c8f93", "#5cbf86", "#bfdc6c", "#fdf5a8"],
    turn: ["#8ccaff", "#3f86cc", "#25496f", "#1b1d21", "#6d4020", "#c9762c", "#ffbd73"],
  },
};

export function theme() { return document.documentElement.dataset.theme; }

const made = new Map();

// [{ background, text }] × LEVELS.
export function palette(kind) {
  const key = `${theme()} ${kind}`;
  if (!made.has(key)) made.set(key, ramp(STOPS[theme()][kind]));
  return made.get(key);
}

function ramp(stops) {
  const rgb = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: LEVELS }, (_, level) => {
    const at = (level / (LEVELS - 1)) * (rgb.length - 1);
    const first = Math.min(Math.floor(at), rgb.length - 2), part = at - first;
    const colour = rgb[first].map((x, i) => Math.round(x + part * (rgb[first + 1][i] - x)));
    const light = luminance(colour);
    // Of white and black the one with more contrast, which is at least 4.58.
    const text = 1.05 / (light + 0.05) > (light + 0.05) / 0.05 ? "#ffffff" : "#000000";
    return { background: `rgb(${colour.join(" ")})`, text };
  });
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((x) => {
    const share = x / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

const SAMPLE = 20000; // tokens of a block that decide the ends of a scale

// The 1 % and 99 % quantiles of the finite values.
function ends(columns) {
  const seen = [];
  for (const column of columns) {
    const every = Math.max(1, Math.floor(column.length / SAMPLE));
    for (let i = 0; i < column.length; i += every) if (Number.isFinite(column[i])) seen.push(column[i]);
  }
  seen.sort((a, b) => a - b);
  const at = (q) => seen[Math.round(q * (seen.length - 1))] ?? 0;
  return [at(0.01), at(0.99)];
}

// The scale of a quantity over blocks: { kind, low, high, level(x), centre, words }.
export function scale(blocks, id) {
  const about = quantity(id);
  const columns = blocks.map((block) => values(block, id)).filter(Boolean);
  let [low, high] = ends(columns);
  const base = runs[blocks[0]?.run ?? 0].formulas.baseTemperature || 1;
  if (about.scale === "rise" || about.scale === "fall") {
    if (about.floor !== undefined) low = about.floor;
    if (about.scale === "fall") high = 0;
    if (!(high > low)) high = low + 1;
    const turned = about.scale === "fall";
    const level = (x) => clamp((turned ? (high - x) : (x - low)) / (high - low));
    return { kind: "rise", low, high, level, turned, centre: null };
  }
  const logs = about.scale === "one";
  const centre = { zero: 0, one: 1, unit: 1, base }[about.scale];
  const away = (x) => (logs ? Math.log(x) : x - centre);
  const most = about.bound ?? (Math.max(Math.abs(away(low)), Math.abs(away(high))) || 1);
  const level = (x) => clamp(0.5 + away(x) / (2 * most));
  const back = (x) => (logs ? Math.exp(x) : centre + x);
  return { kind: "turn", low: back(-most), high: back(most), level, centre, turned: false };
}

function clamp(share) {
  if (Number.isNaN(share)) return -1;
  return Math.round(Math.min(Math.max(share, 0), 1) * (LEVELS - 1));
}

// Ends and centre in words, for the legend.
export function marks(found, unit) {
  const ends = found.turned ? [found.high, found.low] : [found.low, found.high];
  const inner = found.centre === null ? [] : [found.centre];
  return [ends[0], ...inner, ends[1]].map((x) => number(x)).map((x, i, all) =>
    (unit && i === all.length - 1 ? `${x} ${unit}` : x));
}
