// The most extreme tokens, and the strings that occur on both sides of the quantile.

import { block as load, runs } from "microscope/data";
import { h, select, stepper, table } from "microscope/dom";
import { resolve } from "microscope/group";
import { QUANTITIES, quantity, side, values } from "microscope/quantities";
import { go, state } from "microscope/state";
import { runSelect } from "microscope/steps";
import { count, number, percent, short, visible } from "microscope/text";

const MOST = 100; // rows of a list
const EXAMPLES = 3;

// The blocks that the scope names.
async function blocks() {
  if (state.scope === "step") return [await load(state.run, state.step)];
  const steps = runs[state.run].steps.map(({ step }) => step);
  const found = [];
  for (const step of steps) found.push(await load(state.run, step));
  return found;
}

function heading() {
  const run = runs[state.run];
  return h("div", { class: "places" },
    runSelect(),
    stepper("step", run.steps.map((s) => [s.step, `step ${s.step}`]), state.step, (step) => go({ step, group: null, completion: null, token: null })),
    select("scope", [["step", "this step"], ["run", "all steps of the report"]], state.scope, (scope) => go({ scope })));
}

function jump(block, i, label, kind = "link") {
  const c = block.completionOf(i);
  return h("button", {
    type: "button", class: kind,
    onclick: () => go({ page: "group", run: block.run, step: block.step, group: block.completions[c].group, completion: c, token: i - block.starts[c], answer: "", truncated: "", length: "", search: "", tokens: "" }),
  }, label);
}

// A token between those around it.
function context(block, i, width = 5) {
  const c = block.completionOf(i);
  const piece = (from, to) => {
    let text = "";
    for (let j = Math.max(from, block.starts[c]); j < Math.min(to, block.starts[c + 1]); j++) text += block.string(j);
    return text;
  };
  const before = piece(i - width, i), after = piece(i + 1, i + 1 + width);
  return h("span", { class: "context", dir: "ltr" },
    h("span", { class: "muted" }, visible(before.slice(-40))), h("mark", {}, short(block.string(i), 40) || "∅"), h("span", { class: "muted" }, visible(after.slice(0, 40))));
}

const ENDS = { largest: (x) => x, smallest: (x) => -x, farthest: (x) => Math.abs(x) };

// The MOST tokens with the highest rank: [{ block, i, value, rank }].
export function extremes(all, id, end) {
  const rank = ENDS[end];
  let found = [], least = -Infinity;
  for (const block of all) {
    const column = values(block, id);
    if (!column) continue;
    for (let i = 0; i < column.length; i++) {
      const value = column[i];
      const r = rank(value);
      if (!(r > least) || Number.isNaN(value)) continue;
      found.push({ block, i, value, rank: r });
      if (found.length >= 4 * MOST) {
        found = found.sort((a, b) => b.rank - a.rank).slice(0, MOST);
        least = found.at(-1).rank;
      }
    }
  }
  return found.sort((a, b) => b.rank - a.rank).slice(0, MOST);
}

export async function extreme(root) {
  if (!resolve()) { root.append(h("p", {}, "No tokens were recorded (log.record_every_steps).")); return; }
  const about = quantity(state.by);
  const found = extremes(await blocks(), state.by, state.end);
  root.append(heading(), h("section", {},
    h("h2", {}, "Most extreme tokens"),
    h("div", { class: "toolbar-row" },
      h("label", { class: "field" }, "by ", select("quantity", QUANTITIES.map((q) => [q.id, q.label]), state.by, (by) => go({ by }))),
      select("end", [["largest", "largest"], ["smallest", "smallest"], ["farthest", "farthest from 0"]], state.end, (end) => go({ end }))),
    found.length ? table("most extreme tokens", [["", "right"], [about.unit ? `${about.label}, ${about.unit}` : about.label, "right"], ["token in its place", ""], ["where", ""], ["reward", "right"]],
      found.map(({ block, i, value }, n) => {
        const c = block.completionOf(i);
        return [String(n + 1), number(value), context(block, i), where(block, i), number(block.completions[c].reward)];
      })) : h("p", {}, "This quantity was not recorded.")));
}

function where(block, i) {
  const c = block.completionOf(i), { group } = block.completions[c];
  return jump(block, i, `step ${block.step}, group ${block.groups.indexOf(group) + 1}, completion ${block.inGroup(group).indexOf(c) + 1}, token ${i - block.starts[c] + 1}`);
}

// Strings with tokens on both sides: [{ text, sides: [confident, uncertain] }], each
// side { count, entropy, advantage, examples }; those with most on their rarer side first.
export function dualEntropy(all) {
  const found = new Map();
  for (const block of all) {
    const { uncertain } = side(block);
    const entropy = block.column("old_entropy") ?? block.column("entropy");
    const advantage = values(block, "factor");
    for (let i = 0; i < block.size; i++) {
      const text = block.string(i);
      let entry = found.get(text);
      if (!entry) {
        const empty = () => ({ count: 0, entropy: 0, factor: 0, factors: 0, examples: [] });
        found.set(text, entry = { text, sides: [empty(), empty()] });
      }
      const one = entry.sides[uncertain(i) ? 1 : 0];
      one.count++;
      one.entropy += entropy[i];
      if (advantage && Number.isFinite(advantage[i])) { one.factor += advantage[i]; one.factors++; }
      if (one.examples.length < EXAMPLES) one.examples.push([block, i]);
    }
  }
  const rarer = ({ sides }) => Math.min(sides[0].count, sides[1].count);
  return [...found.values()].filter((entry) => rarer(entry) > 0).sort((a, b) => rarer(b) - rarer(a)).slice(0, MOST);
}

export async function dual(root) {
  if (!resolve()) { root.append(h("p", {}, "No tokens were recorded (log.record_every_steps).")); return; }
  const all = await blocks();
  const found = dualEntropy(all);
  const examples = ({ examples: list }) => h("span", { class: "examples" }, list.map(([block, i]) => jump(block, i, context(block, i, 3), "example")));
  const words = [...new Set(all.map((block) => side(block).words))];
  root.append(heading(), h("section", {},
    h("h2", {}, "Dual-entropy tokens"),
    h("p", { class: "muted" }, `The same string, confident in one place and uncertain in another (uncertain: ${words.length === 1 ? words[0] : "by each step’s own border"}). Those with most tokens on their rarer side come first; an example leads to its place.`),
    found.length ? table("dual-entropy tokens",
      [["token", ""], ["tokens", "right"], ["uncertain", "right"], ["entropy there, nats", "right"], ["confident examples", ""], ["uncertain examples", ""]],
      found.map(({ text, sides: [low, high] }) => [
        h("mark", { dir: "ltr" }, short(text, 40) || "∅"), count(low.count + high.count), percent(high.count / (low.count + high.count)),
        `${number(low.entropy / low.count)} / ${number(high.entropy / high.count)}`, examples(low), examples(high)]))
      : h("p", {}, "No string occurs on both sides.")));
}
