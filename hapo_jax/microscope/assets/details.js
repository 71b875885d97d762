// All numbers of a token, and its place in the formulas.

import { marks, palette, scale } from "microscope/colours";
import { h } from "microscope/dom";
import { places, quantity, side, values } from "microscope/quantities";
import { count, number, paragraph, visible } from "microscope/text";

const SECTIONS = [
  ["When it was drawn", ["entropy", "temperature", "behavior_logprobs", "cut_logit"]],
  ["Policies", ["old_logprobs", "logprobs", "old_behavior", "log_ratio", "old_entropy"]],
  ["Loss", ["entropy_score", "ratio", "base_advantages", "advantages", "clip_low", "clip_high", "importance_weight", "loss"]],
];

export function details(block, i, current) {
  if (i === null) {
    return h("p", { class: "muted" }, "Point at a token, or select one with a click or the arrow keys, to see all that is known of it.");
  }
  const c = block.completionOf(i);
  const text = block.string(i);
  return [
    h("div", { class: "token-title" },
      h("span", { class: "token-big", dir: "ltr" }, visible(text.slice(0, 200)) || "∅"),
      h("span", { class: "muted" }, `id ${block.ids[block.tokens[i]]}`)),
    h("p", { class: "muted" },
      `token ${count(i - block.starts[c] + 1)} of ${count(block.length(c))} · ${side(block).uncertain(i) ? "uncertain" : "confident"}`),
    text.length > 200 && h("details", {}, h("summary", {}, `all ${count(text.length)} characters`), h("pre", { class: "whole" }, paragraph(text))),
    h("div", { class: "chips" }, chips(block, i, c)),
    places(block, i).map(([title, words, formula]) => h("section", { class: "place" },
      h("h3", {}, title), h("p", {}, words), formula && h("p", { class: "formula" }, formula))),
    SECTIONS.map(([title, ids]) => h("section", {},
      h("h3", {}, title), h("dl", { class: "numbers" }, ids.map((id) => entry(block, i, id, current))))),
  ];
}

function chips(block, i, c) {
  const found = [];
  if (block.clippedLow(i)) found.push(["clipped low", "low"]);
  if (block.clippedHigh(i)) found.push(["clipped high", "high"]);
  if (block.dualClipped(i)) found.push(["clipped dual", "dual"]);
  if (!block.counted(i)) found.push(["masked", "masked"]);
  if (block.completions[c].truncated && i === block.starts[c + 1] - 1) found.push(["truncated here", "cut"]);
  return found.map(([text, kind]) => h("span", { class: `chip ${kind}` }, text));
}

function entry(block, i, id, current) {
  const column = values(block, id);
  if (!column) return null;
  const about = quantity(id);
  const none = id === "cut_logit" && column[i] === -Infinity;
  const text = none ? "none" : `${number(column[i])}${about.unit ? ` ${about.unit}` : ""}`;
  return [
    h("dt", { class: id === current ? "current" : null }, about.label),
    h("dd", { class: id === current ? "current" : null }, text),
  ];
}

// One sentence, for readers of the screen.
export function spoken(block, i, id) {
  const column = values(block, id);
  const flags = ["clippedLow", "clippedHigh", "dualClipped"].filter((name) => block[name](i));
  const about = quantity(id);
  return `${visible(block.string(i).slice(0, 80))}: ${about.label} ${number(column?.[i])} ${about.unit}${flags.length ? ", clipped" : ""}`;
}

// What a colour means: the ramp with its ends, and the outlines.
export function legend(blocks, id) {
  const found = scale(blocks, id);
  const about = quantity(id);
  const colours = palette(found.kind);
  const ramp = h("span", { class: "ramp" }, colours.map(({ background }) => {
    const cell = h("i");
    cell.style.background = background;
    return cell;
  }));
  const outlines = [["low", "clipped low"], ["high", "clipped high"], ["dual", "clipped dual"], ["masked", "masked"], ["cut", "truncated"]];
  return h("div", { class: "legend" },
    h("span", { class: "legend-scale" }, ramp,
      h("span", { class: "ticks" }, marks(found, about.unit).map((text) => h("span", {}, text)))),
    h("span", { class: "outlines" }, outlines.map(([kind, text]) =>
      h("span", { class: "outline" }, h("span", { class: `token sample ${kind}` }, "ab"), text))));
}
