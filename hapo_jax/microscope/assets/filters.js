// Which completions and tokens are looked at, and the bar that says so.

import { scale } from "microscope/colours";
import { legend } from "microscope/details";
import { button, h, select } from "microscope/dom";
import { side, there, values } from "microscope/quantities";
import { go, state } from "microscope/state";
import { occurrences } from "microscope/text";

// The completions of a group that pass the filters.
export function passing(block, group) {
  const [least, most] = state.length.split("-").map((x) => (x === "" ? null : Number(x)));
  return block.inGroup(group).filter((c) => {
    const { score, truncated } = block.completions[c];
    if (state.answer === "right" && !(score >= 1)) return false;
    if (state.answer === "wrong" && score >= 1) return false;
    if (state.truncated && truncated !== (state.truncated === "yes")) return false;
    if (least && block.length(c) < least) return false;
    if (most && block.length(c) > most) return false;
    return true;
  });
}

const TOKENS = {
  clipped: (block) => (i) => block.clipped(i),
  uncertain: (block) => side(block).uncertain,
  confident: (block) => { const { uncertain } = side(block); return (i) => !uncertain(i); },
  masked: (block) => (i) => !block.counted(i),
};

// Whether a token passes the filter of tokens.
export const wanted = (block) => TOKENS[state.tokens]?.(block) ?? (() => true);

// Where the text that is searched for is: [{ c, from, to }] in tokens.
export function matches(block, completions) {
  if (!state.search) return [];
  return completions.flatMap((c) => {
    const found = occurrences(block.text(c), state.search);
    if (!found.length) return [];
    const ends = []; // in characters, of each token
    let at = 0;
    for (let i = block.starts[c]; i < block.starts[c + 1]; i++) ends.push(at += block.string(i).length);
    let token = 0;
    return found.map(([from, to]) => {
      while (ends[token] <= from) token++;
      let last = token;
      while (ends[last] < to) last++;
      return { c, from: block.starts[c] + token, to: block.starts[c] + last + 1 };
    });
  });
}

// How tokens of blocks look: what a Strip is given.
export function paint(blocks, block, found = []) {
  const column = values(block, state.colour);
  const { kind, level } = scale(blocks, state.colour);
  const keep = wanted(block);
  const marked = new Set();
  for (const { from, to } of found) for (let i = from; i < to; i++) marked.add(i);
  return {
    kind,
    level: (i) => (column ? level(column[i]) : -1),
    dim: (i) => !keep(i),
    match: (i) => marked.has(i),
  };
}

// The bar: colour with its legend, search, filters.
export function bar(blocks, { count = null, completions = true } = {}) {
  const filtered = state.search || state.tokens || state.answer || state.truncated || state.length;
  const box = h("div", { class: filtered ? "toolbar open" : "toolbar" },
    h("div", { class: "toolbar-row" },
      h("label", { class: "field" }, "colour by ",
        select("colour by", there(blocks[0]).map((q) => [q.id, q.label]), state.colour, (colour) => go({ colour }))),
      button("filters", () => box.classList.toggle("open"), { class: "quiet more" }),
      legend(blocks, state.colour)),
    h("div", { class: "toolbar-row filters" },
      search(count),
      select("tokens", [["", "all tokens"], ["clipped", "clipped"], ["uncertain", "uncertain"], ["confident", "confident"], ["masked", "masked"]],
        state.tokens, (tokens) => go({ tokens })),
      completions && [
        select("answer", [["", "right and wrong"], ["right", "right"], ["wrong", "wrong"]], state.answer, (answer) => go({ answer })),
        select("truncated", [["", "any end"], ["yes", "truncated"], ["no", "not truncated"]], state.truncated, (truncated) => go({ truncated })),
        lengths(),
        button("clear filters", () => go({ tokens: "", answer: "", truncated: "", length: "", search: "" }), { class: "quiet" }),
      ]));
  return box;
}

export function search(count) {
  const field = h("input", {
    type: "search", id: "search", placeholder: "search text", "aria-label": "search text", value: state.search,
    onchange: () => go({ search: field.value }),
  });
  return h("span", { class: "field search" }, field, count);
}

function lengths() {
  const [least = "", most = ""] = state.length.split("-");
  const read = () => {
    const [a, b] = [from, to].map((field) => field.value.replace(/\D/g, ""));
    go({ length: a || b ? `${a}-${b}` : "" });
  };
  const field = (label, value) => h("input", { type: "text", inputmode: "numeric", size: "5", placeholder: label, "aria-label": `${label} length in tokens`, value, onchange: read });
  const from = field("least", least), to = field("most", most);
  return h("span", { class: "field" }, "length ", from, " – ", to);
}
