// The steps of a run, and the groups of a step side by side.

import { runs } from "microscope/data";
import { button, h, select, stepper, table } from "microscope/dom";
import { search } from "microscope/filters";
import { go, state } from "microscope/state";
import { count, number, percent, short } from "microscope/text";

const sum = (xs) => xs.reduce((a, b) => a + (b ?? 0), 0);

export function steps(root) {
  const run = runs[state.run];
  const rows = run.steps.map((step) => {
    const all = (name) => step.groups.flatMap((group) => group[name]);
    const tokens = sum(all("lengths")), rewards = all("rewards"), scores = all("scores");
    const fired = (name) => percent(sum(step.groups.map((g) => g.fired[name] ?? 0)) / tokens);
    return [
      button(`step ${step.step}`, () => go({ page: "step", step: step.step }), { class: "link" }),
      count(step.groups.length), count(rewards.length), count(tokens),
      number(sum(rewards) / rewards.length), percent(scores.filter((s) => s >= 1).length / scores.length),
      number(tokens / rewards.length), number(sum(all("entropy")) / tokens),
      fired("clipped_low"), fired("clipped_high"), percent(sum(step.groups.map((g) => g.truncated)) / rewards.length),
    ];
  });
  const heads = ["step", "groups", "completions", "tokens", "reward", "right", "mean length", "entropy, nats", "clipped low", "clipped high", "truncated"];
  root.append(runs.length > 1 ? h("div", { class: "places" }, runSelect()) : "", h("section", {},
    h("h2", {}, `Recorded steps of ${run.name}`),
    h("p", { class: "muted" }, "Means over what is in this report of each step."),
    run.thinned.map((text) => h("p", { class: "note" }, text)),
    rows.length ? table("recorded steps", heads.map((text, i) => [text, i ? "right" : ""]), rows) : h("p", {}, "No tokens were recorded (log.record_every_steps).")));
}

export function step(root, { filter }) {
  const run = runs[state.run];
  const found = run.steps.find((s) => s.step === state.step) ?? run.steps.at(-1);
  if (!found) { root.append(h("p", {}, "No tokens were recorded (log.record_every_steps).")); return; }
  const wanted = state.search.toLowerCase();
  const groups = found.groups.filter((group) => !wanted || group.prompt.toLowerCase().includes(wanted) || filter(group.group));
  root.append(places(run, found), h("section", {},
    h("h2", {}, `Groups of step ${found.step}`),
    h("p", { class: "muted" }, `${groups.length} of ${found.groups.length} groups. A bar is a completion: its height is the reward, its width the length; blue is right.`),
    h("div", { class: "cards groups" }, groups.map((group) => card(found, group))),
    !groups.length && h("p", {}, "No prompt and no completion has this text.")));
}

function places(run, found) {
  return h("div", { class: "places" }, runSelect(),
    stepper("step", run.steps.map((s) => [s.step, `step ${s.step}`]), found.step,
      (step) => go({ step, group: null, completion: null, token: null })),
    search(null));
}

// Which run is looked at, where there are several.
export function runSelect() {
  if (runs.length < 2) return null;
  return select("run", runs.map((run, i) => [i, run.name]), state.run,
    (i) => go({ run: Number(i), group: null, completion: null, token: null }));
}

function card(step, group) {
  const { rewards, scores, lengths } = group;
  const right = scores.filter((s) => s >= 1).length;
  return h("button", { type: "button", class: "card group-card", onclick: () => go({ page: "group", step: step.step, group: group.group, completion: null, token: null }) },
    h("span", { class: "group-title" }, h("strong", {}, `group ${step.groups.indexOf(group) + 1}`), h("span", { class: "muted" }, short(String(group.problem), 40))),
    h("span", { class: "prompt-head", dir: "ltr" }, short(group.prompt, 140)),
    bars(rewards, scores, lengths),
    h("span", { class: "muted" }, `${right} of ${scores.length} right · reward ${number(sum(rewards) / rewards.length)} · ${number(sum(lengths) / lengths.length)} tokens${group.truncated ? ` · ${group.truncated} truncated` : ""}`));
}

// The completions of a group as bars.
export function bars(rewards, scores, lengths) {
  const finite = rewards.map((r) => r ?? 0);
  const low = Math.min(0, ...finite), high = Math.max(...finite, low + 1e-9);
  const longest = Math.max(...lengths, 1);
  return h("span", { class: "bars", "aria-hidden": "true" }, finite.map((reward, i) => {
    const bar = h("i", { class: scores[i] >= 1 ? "right-answer" : "wrong-answer" });
    bar.style.height = `${12 + 88 * ((reward - low) / (high - low))}%`;
    bar.style.flexGrow = String(0.25 + lengths[i] / longest);
    return bar;
  }));
}
