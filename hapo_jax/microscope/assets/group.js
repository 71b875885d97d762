// A group: its completions below each other as strips, beside them their rewards and
// all that is known of a token.

import { block as load, runs } from "microscope/data";
import { details, spoken } from "microscope/details";
import { h, stepper } from "microscope/dom";
import { bar, matches, paint, passing } from "microscope/filters";
import { bars, runSelect } from "microscope/steps";
import { go, settle, state } from "microscope/state";
import { Strip } from "microscope/strip";
import { count, number, paragraph, short } from "microscope/text";

const NOWHERE = { completion: null, token: null };
export const STRUCTURE = ["page", "run", "step", "group"];

// Fills in what the hash leaves open; false if there is nothing to show.
export function resolve() {
  const run = runs[state.run] ?? runs[0];
  const settled = { run: runs.indexOf(run) };
  const step = run.steps.find((s) => s.step === state.step) ?? run.steps.at(-1);
  if (!step) return null;
  settled.step = step.step;
  const group = step.groups.find((g) => g.group === state.group) ?? step.groups[0];
  settled.group = group.group;
  if (settled.step !== state.step || settled.group !== state.group || settled.run !== state.run) {
    Object.assign(settled, { completion: null, token: null });
    settle(settled);
  }
  return { run, step, group };
}

export async function group(root, announce) {
  const at = resolve();
  if (!at) {
    root.append(h("p", {}, "No tokens were recorded (log.record_every_steps)."));
    return { update() {}, close() {} };
  }
  const block = await load(state.run, state.step);
  return new GroupPage(root, announce, at, block);
}

class GroupPage {
  constructor(root, announce, at, block) {
    Object.assign(this, { root, announce, at, block, found: [], hovered: null });
    this.panel = h("aside", { class: "details", "aria-label": "token", tabindex: "0" });
    this.list = h("nav", { class: "completions", "aria-label": "completions" });
    this.counter = h("span", { class: "muted counter", role: "status" });
    this.empty = h("p", { class: "empty-note", hidden: true }, "No completion passes the filters.");
    this.strip = new Strip("token", "tokens of the group; arrow keys move", {
      pick: (_, i) => this.pick(i),
      hover: (_, i) => { this.hovered = i; this.tell(); },
    });
    this.bar = h("div");
    root.append(this.places(), this.bar, this.prompt(),
      h("div", { class: "bench" }, this.list, h("div", { class: "strip-box" }, this.empty, this.strip.root), this.panel));
    this.refresh();
    this.select(true);
  }

  places() {
    const { run, step, group } = this.at;
    const steps = run.steps.map((s) => [s.step, `step ${s.step}`]);
    const groups = step.groups.map((g, n) => [g.group, `group ${n + 1} · ${short(String(g.problem), 30)}`]);
    return h("div", { class: "places" }, runSelect(),
      stepper("step", steps, step.step, (s) => go({ step: s, ...NOWHERE, group: null })),
      stepper("group", groups, group.group, (g) => go({ group: g, ...NOWHERE })),
      bars(group.rewards, group.scores, group.lengths));
  }

  prompt() {
    const c = this.block.inGroup(state.group)[0];
    const text = this.block.prompts[this.block.completions[c].prompt];
    return h("details", { class: "prompt" },
      h("summary", {}, h("span", {}, "prompt "), h("span", { class: "muted", dir: "ltr" }, short(text, 110))),
      h("pre", { class: "whole", dir: "ltr", tabindex: "0" }, paragraph(text)));
  }

  // After a change of filters, search or colour.
  refresh() {
    this.bar.replaceChildren(bar([this.block], { count: this.counter }));
    this.shown = passing(this.block, state.group);
    this.found = matches(this.block, this.shown);
    if (state.search) {
      const having = new Set(this.found.map((m) => m.c));
      this.shown = this.shown.filter((c) => having.has(c));
    }
    this.counter.textContent = state.search ? `${count(this.found.length)} found` : "";
    this.empty.hidden = this.shown.length > 0;
    this.strip.show(this.block, this.shown, (c) => this.head(c));
    this.strip.colour(paint([this.block], this.block, this.found));
    this.fill();
    this.tell();
  }

  update(changed) {
    const structure = ["colour", "tokens", "search", "answer", "truncated", "length"];
    if (structure.some((key) => changed.has(key))) {
      const focus = document.activeElement?.getAttribute("aria-label");
      const filters = structure.slice(2).some((key) => changed.has(key));
      if (filters) this.refresh();
      else {
        this.bar.replaceChildren(bar([this.block], { count: this.counter }));
        this.strip.colour(paint([this.block], this.block, this.found));
      }
      if (focus) [...this.bar.querySelectorAll("[aria-label]")].find((e) => e.getAttribute("aria-label") === focus)?.focus();
      if (changed.has("search") && this.found.length) this.pick(this.found[0].from);
    }
    this.select(changed.has("completion") && !changed.has("token"));
  }

  // The selected token's index in the block, or null.
  current() {
    if (state.completion === null || state.token === null) return null;
    const i = this.block.starts[state.completion] + state.token;
    return state.completion < this.block.completions.length && i < this.block.starts[state.completion + 1] ? i : null;
  }

  pick(i) {
    const c = this.block.completionOf(i);
    go({ completion: c, token: i - this.block.starts[c] }, { replace: true });
  }

  select(jump) {
    const i = this.current();
    this.strip.select(i);
    if (i === null && jump && state.completion !== null) this.strip.revealCompletion(state.completion);
    for (const item of this.list.children) item.toggleAttribute("aria-current", Number(item.dataset.c) === state.completion);
    this.tell();
    if (i !== null) this.announce(spoken(this.block, i, state.colour));
  }

  tell() {
    const i = this.hovered ?? this.current();
    this.panel.replaceChildren(...[details(this.block, i, state.colour)].flat(4).filter(Boolean));
    this.panel.classList.toggle("open", i !== null);
  }

  head(c) {
    const { score, reward, truncated, text } = this.block.completions[c];
    const number_ = this.block.inGroup(state.group).indexOf(c) + 1;
    return [
      h("span", { class: score >= 1 ? "verdict right" : "verdict wrong" }, score >= 1 ? "✓ right" : "✗ wrong"),
      h("strong", {}, `completion ${number_}`),
      h("span", { class: "muted" }, `reward ${number(reward)} · score ${number(score)} · ${count(this.block.length(c))} tokens${this.clips(c)}`),
      truncated && h("span", { class: "chip cut" }, "truncated"),
      text !== null && h("button", { type: "button", class: "link", onclick: () => this.read(text) }, "as text"),
    ];
  }

  clips(c) {
    let clipped = 0;
    for (let i = this.block.starts[c]; i < this.block.starts[c + 1]; i++) clipped += this.block.clipped(i);
    return clipped ? ` · ${count(clipped)} clipped` : "";
  }

  // Tokens may hold half a character; this is what they spell together.
  read(text) {
    const dialog = h("dialog", { class: "reader", onclose: () => dialog.remove() },
      h("form", { method: "dialog" }, h("button", {}, "close")), h("pre", { class: "whole", dir: "ltr" }, paragraph(text)));
    document.body.append(dialog);
    dialog.showModal();
  }

  fill() {
    const all = this.block.inGroup(state.group);
    this.list.replaceChildren(...this.shown.map((c) => {
      const { score, reward, truncated } = this.block.completions[c];
      return h("button", { type: "button", "data-c": c, class: score >= 1 ? "right" : "wrong", onclick: () => { go({ completion: c, token: null }); this.strip.revealCompletion(c); } },
        h("span", { class: "n" }, `${all.indexOf(c) + 1}`),
        h("span", { class: "r" }, `${score >= 1 ? "✓" : "✗"} ${number(reward)}`),
        h("span", { class: "muted l" }, `${count(this.block.length(c))}${truncated ? " ✂" : ""}`));
    }));
  }

  step(by) {
    const steps = this.at.run.steps, at = steps.indexOf(this.at.step) + by;
    if (steps[at]) go({ step: steps[at].step, group: null, ...NOWHERE });
  }

  group(by) {
    const groups = this.at.step.groups, at = groups.indexOf(this.at.group) + by;
    if (groups[at]) go({ group: groups[at].group, ...NOWHERE });
  }

  completion(by) {
    const at = this.shown.indexOf(state.completion);
    const c = this.shown[Math.min(Math.max(at + by, 0), this.shown.length - 1)];
    if (c === undefined) return;
    go({ completion: c, token: 0 }, { replace: true });
    this.strip.revealCompletion(c);
  }

  token(by) {
    const { block } = this;
    const i = this.current();
    if (i === null) { if (this.shown.length) this.pick(block.starts[state.completion ?? this.shown[0]]); return; }
    const c = block.completionOf(i);
    const j = i + by;
    if (j >= block.starts[c] && j < block.starts[c + 1]) { this.pick(j); return; }
    const next = this.shown[this.shown.indexOf(c) + by];
    if (next !== undefined) this.pick(by > 0 ? block.starts[next] : block.starts[next + 1] - 1);
  }

  // To the next place that the search, or the filter of tokens, has found.
  next(by) {
    const places = this.found.length ? this.found.map((m) => m.from) : state.tokens ? this.filtered() : [];
    if (!places.length) return;
    const i = this.current() ?? -1;
    const at = by > 0 ? places.find((p) => p > i) ?? places[0] : places.findLast((p) => p < i) ?? places.at(-1);
    this.pick(at);
  }

  filtered() {
    const { dim } = paint([this.block], this.block);
    const places = [];
    for (const c of this.shown) for (let i = this.block.starts[c]; i < this.block.starts[c + 1]; i++) if (!dim(i)) places.push(i);
    return places;
  }

  key(key) {
    const i = this.current();
    const actions = {
      ArrowLeft: () => this.token(-1), ArrowRight: () => this.token(1),
      ArrowUp: () => (i === null ? this.token(1) : this.pick(this.strip.vertical(i, -1))),
      ArrowDown: () => (i === null ? this.token(1) : this.pick(this.strip.vertical(i, 1))),
      j: () => this.completion(1), k: () => this.completion(-1),
      g: () => this.group(1), G: () => this.group(-1), s: () => this.step(1), S: () => this.step(-1),
      n: () => this.next(1), N: () => this.next(-1),
      Escape: () => go({ token: null }, { replace: true }),
    };
    if (!actions[key]) return false;
    actions[key]();
    return true;
  }

  repaint() { this.bar.replaceChildren(bar([this.block], { count: this.counter })); this.strip.redraw(); }
  close() { this.strip.close(); }
}
