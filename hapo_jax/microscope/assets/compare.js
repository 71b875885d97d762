// Two runs or two steps side by side: the same problem, the distribution of a quantity,
// and the tokens whose treatment differs most.

import { chart, histogram, seriesColour } from "microscope/charts";
import { block as load, runs } from "microscope/data";
import { details } from "microscope/details";
import { h, select, table } from "microscope/dom";
import { bar, matches, paint } from "microscope/filters";
import { resolve } from "microscope/group";
import { quantity, values } from "microscope/quantities";
import { go, settle, state } from "microscope/state";
import { Strip } from "microscope/strip";
import { count, number, short } from "microscope/text";

const LEAST = 5; // tokens of a string on each side, to be compared
const MOST = 40;

export async function compare(root, announce) {
  if (!resolve()) { root.append(h("p", {}, "No tokens were recorded (log.record_every_steps).")); return { update() {}, close() {} }; }
  const places = runs.flatMap((run, r) => run.steps.map(({ step }) => [`${r}.${step}`, `${runs.length > 1 ? `${run.name}, ` : ""}step ${step}`]));
  const here = `${state.run}.${state.step}`;
  if (!places.some(([id]) => id === state.with)) settle({ with: other(places, here) });
  const [run, step] = state.with.split(".").map(Number);
  const blocks = [await load(state.run, state.step), await load(run, step)];
  return new ComparePage(root, announce, blocks, places, here);
}

// The same step of another run, else the run's first step.
function other(places, here) {
  const step = here.split(".")[1];
  const found = places.find(([id]) => id !== here && id.split(".")[1] === step && id.split(".")[0] !== here.split(".")[0]);
  return (found ?? places.find(([id]) => id !== here) ?? places[0])[0];
}

class ComparePage {
  constructor(root, announce, blocks, places, here) {
    Object.assign(this, { blocks, announce });
    this.names = [here, state.with].map((id) => places.find(([place]) => place === id)[1]);
    if (this.names[0] === this.names[1]) this.names = this.names.map((name, i) => `${name} (${"AB"[i]})`);
    this.bar = h("div");
    this.parts = h("div");
    this.side = h("div");
    root.append(
      h("div", { class: "places" }, mark(0), select("A", places, here, (id) => { const [run, step] = id.split(".").map(Number); go({ run, step, group: null, completion: null, token: null }); }),
        h("span", { class: "muted" }, "against"), mark(1), select("B", places, state.with, (id) => go({ with: id }))),
      this.bar, this.parts, this.side);
    this.strips = [0, 1].map((n) => new Strip(`token-${"ab"[n]}`, `tokens of ${this.names[n]}`, {
      pick: (block, i) => this.tell(n, i), hover: (_, i) => i !== null && this.tell(n, i),
    }));
    this.panels = [0, 1].map((n) => h("aside", { class: "details inline", "aria-label": `token of ${this.names[n]}`, tabindex: "0" }));
    this.problems();
    this.refresh();
  }

  problems() {
    const [a, b] = this.blocks.map((block) => new Set(block.completions.map((c) => c.problem)));
    const shared = [...a].filter((problem) => b.has(problem));
    if (!shared.length) {
      this.side.append(h("section", {}, h("h2", {}, "The same problem"), h("p", {}, "No problem is in both of these steps."), this.elsewhere()));
      this.strips.forEach((strip) => strip.close());
      this.strips = [];
      return;
    }
    if (!shared.includes(state.problem)) settle({ problem: shared[0] });
    const mean = (block, problem) => {
      const rewards = block.completions.filter((c) => c.problem === problem).map((c) => c.reward ?? 0);
      return number(rewards.reduce((x, y) => x + y, 0) / rewards.length);
    };
    this.side.append(h("section", {}, h("h2", {}, "The same problem"),
      h("p", {}, select("problem", shared.map((p) => [p, `${short(String(p), 30)} · mean reward ${mean(this.blocks[0], p)} against ${mean(this.blocks[1], p)}`]), state.problem, (problem) => go({ problem }))),
      h("div", { class: "pair" }, this.strips.map((strip, n) => h("div", {}, h("h3", {}, mark(n), this.names[n]), strip.root, this.panels[n])))));
  }

  // Steps of the same two runs that have a problem in common.
  elsewhere() {
    const [a, b] = this.blocks.map((block) => runs[block.run].steps.map(({ step, groups }) => ({ step, problems: new Set(groups.map((g) => g.problem)) })));
    const found = a.flatMap((one) => b.map((other) => ({
      steps: [one.step, other.step], shared: [...one.problems].filter((p) => other.problems.has(p)).length,
    }))).filter(({ steps, shared }) => shared && !(steps[0] === steps[1] && this.blocks[0].run === this.blocks[1].run));
    if (!found.length) return h("p", { class: "muted" }, "Nor do other steps in this report share one. Runs with one seed meet the same problems at first.");
    const apart = ({ steps }) => Math.abs(steps[0] - steps[1]);
    found.sort((x, y) => y.shared - x.shared || apart(x) - apart(y));
    return h("p", { class: "links" }, "Steps that share one: ", found.slice(0, 8).map(({ steps, shared }) => h("button", {
      type: "button", class: "link",
      onclick: () => go({ step: steps[0], with: `${this.blocks[1].run}.${steps[1]}`, group: null, completion: null, token: null }),
    }, `${steps[0]} and ${steps[1]} (${shared})`)));
  }

  refresh() {
    this.bar.replaceChildren(bar(this.blocks, { completions: false }));
    this.strips.forEach((strip, n) => {
      const block = this.blocks[n];
      const shown = block.completions.flatMap((c, i) => (c.problem === state.problem ? [i] : []));
      strip.show(block, shown, (c) => this.head(block, c));
      strip.colour(paint(this.blocks, block, matches(block, shown)));
    });
    this.distribution();
  }

  head(block, c) {
    const { score, reward, truncated } = block.completions[c];
    return [
      h("span", { class: score >= 1 ? "verdict right" : "verdict wrong" }, score >= 1 ? "✓ right" : "✗ wrong"),
      h("span", { class: "muted" }, `reward ${number(reward)} · ${count(block.length(c))} tokens${truncated ? " · truncated" : ""}`),
    ];
  }

  tell(n, i) { this.panels[n].replaceChildren(...[details(this.blocks[n], i, state.colour)].flat(4).filter(Boolean)); }

  distribution() {
    const about = quantity(state.colour);
    const title = `${about.label}${about.unit ? `, ${about.unit}` : ""}: share of tokens`;
    const columns = this.blocks.map((block) => values(block, state.colour) ?? new Float32Array());
    const found = histogram(columns);
    const moments = columns.map((column) => describe(column));
    this.parts.replaceChildren(h("section", {}, h("h2", {}, `Distribution of ${about.label}`),
      h("div", { class: "split" },
        found ? chart(title, found.map(({ x, y }, n) => ({ label: this.names[n], x, y, colour: seriesColour(n), points: false })), { x: about.unit ? `${about.label}, ${about.unit}` : about.label, height: 236, stepped: true, from0: true }) : h("p", {}, "It was not recorded."),
        table("moments", [["", ""], ...this.names.map((name) => [name, "right"])],
          ["tokens", "mean", "10 %", "median", "90 %"].map((what, k) => [what, ...moments.map((m) => (k === 0 ? count(m[0]) : number(m[k])))])))),
      this.treatment(about));
  }

  treatment(about) {
    const found = treated(this.blocks, state.colour);
    const cell = ({ block, sum, n, example }) => h("button", {
      type: "button", class: "link",
      onclick: () => { const c = block.completionOf(example); go({ page: "group", run: block.run, step: block.step, group: block.completions[c].group, completion: c, token: example - block.starts[c], search: "", tokens: "", answer: "", truncated: "", length: "" }); },
    }, `${number(sum / n)} · ${count(n)} tokens`);
    return h("section", {}, h("h2", {}, "Tokens whose treatment differs most"),
      h("p", { class: "muted" }, `Mean ${about.label} of a string on either side, of strings with at least ${LEAST} tokens on both; the difference in standard errors orders them. A number leads to an example.`),
      found.length ? table("tokens whose treatment differs most", [["token", ""], [this.names[0], "right"], [this.names[1], "right"], ["difference", "right"], ["standard errors", "right"]],
        found.map(({ text, a, b, difference, errors }) => [h("mark", { dir: "ltr" }, short(text, 40) || "∅"), cell(a), cell(b), number(difference), number(errors, 2)]))
        : h("p", {}, `No string has ${LEAST} tokens on both sides.`));
  }

  update(changed) {
    if (["colour", "tokens", "search"].some((key) => changed.has(key))) {
      const focus = document.activeElement?.getAttribute("aria-label");
      this.refresh();
      if (focus) [...this.bar.querySelectorAll("[aria-label]")].find((e) => e.getAttribute("aria-label") === focus)?.focus();
    }
  }

  repaint() { this.refresh(); }
  close() { this.strips.forEach((strip) => strip.close()); }
}

function mark(n) {
  const dot = h("i", { class: "dot" });
  dot.style.background = seriesColour(n);
  return dot;
}

function describe(column) {
  const sorted = column.filter(Number.isFinite).sort();
  const at = (q) => sorted[Math.round(q * (sorted.length - 1))];
  return [sorted.length, sorted.reduce((a, b) => a + b, 0) / sorted.length, at(0.1), at(0.5), at(0.9)];
}

// Strings of both blocks by how far their means are apart.
export function treated(blocks, id) {
  const sides = blocks.map((block) => {
    const column = values(block, id), found = new Map();
    if (!column) return found;
    for (let i = 0; i < block.size; i++) {
      const x = column[i];
      if (!Number.isFinite(x)) continue;
      const text = block.string(i);
      const one = found.get(text) ?? { block, n: 0, sum: 0, squares: 0, example: i };
      one.n++;
      one.sum += x;
      one.squares += x * x;
      found.set(text, one);
    }
    return found;
  });
  const error = ({ n, sum, squares }) => Math.max(squares / n - (sum / n) ** 2, 0) / (n - 1);
  const rows = [];
  for (const [text, a] of sides[0]) {
    const b = sides[1].get(text);
    if (!b || a.n < LEAST || b.n < LEAST) continue;
    const difference = b.sum / b.n - a.sum / a.n;
    const errors = Math.abs(difference) / Math.sqrt(error(a) + error(b));
    if (difference && Number.isFinite(difference)) rows.push({ text, a, b, difference, errors });
  }
  return rows.sort((x, y) => y.errors - x.errors).slice(0, MOST);
}
