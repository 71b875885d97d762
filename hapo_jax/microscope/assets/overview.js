// The first page: findings, figures of the evaluations, curves, settings.

import { chart, seriesColour } from "microscope/charts";
import { metrics, runs } from "microscope/data";
import { button, h, select, table } from "microscope/dom";
import { go } from "microscope/state";
import { count, number } from "microscope/text";

// [title, keys, options]; a pattern stands for all keys that it matches whole.
const CURVES = [
  ["mean reward of sampled completions", ["rollout/reward"], {}],
  ["token entropy, nats", ["entropy/mean"], { from0: true }],
  ["completion length, tokens", ["length/mean"], { from0: true }],
  ["sampling temperature, mean and range", ["temperature/mean"], { band: ["temperature/min", "temperature/max"] }],
  ["share of tokens clipped low", ["clip/frac_low"], { from0: true }],
  ["share of tokens clipped high", ["clip/frac_high"], { from0: true }],
  ["share of advantages that were redistributed", ["advantages/frac_reshaped"], { from0: true }],
  ["distance of the ratio to 1", ["ratio/deviation"], { from0: true }],
  ["KL of the new to the old policy, nats", ["kl/old_policy_k3"], {}],
  ["norm of the gradient", ["grad/norm"], { from0: true }],
  ["truncated completions", ["rollout/truncated"], { from0: true }],
  ["groups all right or all wrong", ["rollout/all_right", "rollout/all_wrong"], { from0: true }],
];
const FIGURE = /^eval\/(.+\/)?(avg@\d+|greedy|maj@\d+|pass@\d+|truncated)$/;

export async function overview(root) {
  const curves = await Promise.all(runs.map((_, i) => metrics(i)));
  root.append(
    findings(),
    h("section", {}, h("h2", {}, "Runs"), h("div", { class: "cards runs" }, runs.map(card))),
    evaluations(),
    h("section", {}, h("h2", {}, "Curves"),
      h("p", { class: "muted" }, "Raw values, step by step. Drag to zoom, double-click to zoom out."),
      h("div", { class: "charts" }, accuracy(), CURVES.map(([title, keys, options]) => panel(title, keys, options, curves))),
      any(curves)),
    settings());
}

function findings() {
  const all = runs.flatMap((run) => run.findings.map((finding) => ({ run, ...finding })));
  const list = all.map(({ run, step, name, means }) => h("li", {},
    h("strong", {}, name.replaceAll("_", " ")), means ? `: ${means}` : "",
    h("span", { class: "muted" }, ` – ${runs.length > 1 ? `${run.name}, ` : ""}step ${step}`)));
  return h("section", { class: all.length ? "findings bad" : "findings", "aria-label": "findings" },
    h("h2", {}, "Findings"),
    all.length ? [h("ul", {}, list), h("p", { class: "muted" }, "The run’s log says what to do, and so do docs/faults.md and docs/doctor.md.")] : h("p", {}, "No alarm was raised, and the run doctor finds nothing."));
}

function card(run, i) {
  const steps = run.steps;
  return h("article", { class: "card" },
    h("h3", {}, mark(i), run.name),
    h("dl", { class: "facts" }, run.facts.map(([what, value]) => h("div", {}, h("dt", {}, what), h("dd", {}, value)))),
    steps.length
      ? h("p", {}, button("Look at its tokens", () => go({ page: "group", run: i, step: steps.at(-1).step, group: steps.at(-1).groups[0].group, completion: null, token: null }), { class: "primary" }))
      : h("p", { class: "muted" }, "No tokens were recorded (log.record_every_steps)."),
    run.thinned.map((text) => h("p", { class: "note" }, text)));
}

function mark(i) {
  const dot = h("i", { class: "dot" });
  dot.style.background = seriesColour(i);
  return dot;
}

function evaluations() {
  const keys = [...new Set(runs.flatMap((run) => run.evaluations.flatMap((e) => Object.keys(e.figures))))]
    .filter((key) => FIGURE.test(key));
  if (!keys.length) return null;
  const largest = keys.filter((key) => key.includes("pass@")).at(-1);
  const shown = keys.filter((key) => !key.includes("pass@") || key === largest);
  const rows = runs.flatMap((run, i) => run.evaluations.map(({ step, figures }) => [
    h("span", {}, mark(i), run.name), count(step),
    ...shown.map((key) => figure(figures, key)), number(figures["eval/length"]), number(figures["eval/entropy"])]));
  const heads = [["run", "name"], ["step", "right"], ...shown.map((key) => [`${key.slice(5)} %`, "right"]), ["length", "right"], ["entropy", "right"]];
  return h("section", {}, h("h2", {}, "Evaluations"), table("evaluations", heads, rows),
    h("p", { class: "muted" }, "[ ] 95 % interval over problems."));
}

function figure(figures, key) {
  if (figures[key] === undefined) return "–";
  const value = (100 * figures[key]).toFixed(1);
  const low = figures[`${key}_low`], high = figures[`${key}_high`];
  if (low === undefined) return value;
  return [h("strong", {}, value), h("span", { class: "muted" }, ` [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`)];
}

function accuracy() {
  const keys = [...new Set(runs.flatMap((run) => run.evaluations.flatMap((e) => Object.keys(e.figures))))]
    .filter((key) => /^eval\/(.+\/)?avg@\d+$/.test(key));
  return keys.map((key) => {
    const lines = runs.map((run, i) => {
      const found = run.evaluations.filter((e) => key in e.figures);
      const of = (name) => found.map((e) => e.figures[name] ?? NaN);
      const line = { label: run.name, x: found.map((e) => e.step), y: of(key), colour: seriesColour(i), points: true };
      return found.some((e) => `${key}_low` in e.figures) ? { ...line, low: of(`${key}_low`), high: of(`${key}_high`) } : line;
    }).filter((line) => line.x.length);
    return chart(`held-out ${key.slice(5)}, 95 % interval`, lines);
  });
}

function panel(title, keys, { band, ...options }, curves) {
  const lines = curves.flatMap(({ step, values }, i) => keys.filter((key) => values.has(key)).map((key, j) => ({
    label: keys.length > 1 ? `${runs[i].name} ${key.split("/").at(-1).replaceAll("_", " ")}` : runs[i].name,
    x: step, y: values.get(key), colour: seriesColour(i), dash: j ? [4, 3] : undefined,
    ...(band && band.every((b) => values.has(b)) ? { low: values.get(band[0]), high: values.get(band[1]) } : {}),
  })));
  const flat = lines.every((line) => Array.from(line.y).every((y) => !y));
  return lines.length && !(flat && options.from0) ? chart(title, lines, options) : null;
}

// Any metric of the run.
function any(curves) {
  const keys = [...new Set(curves.flatMap(({ values }) => [...values.keys()]))].sort();
  if (!keys.length) return null;
  const place = h("div", { class: "charts" });
  const show = (key) => place.replaceChildren(panel(key, [key], {}, curves) ?? "");
  const box = select("metric", keys.map((key) => [key, key]), keys[0], show);
  show(keys[0]);
  return h("div", {}, h("label", { class: "field" }, "any other metric ", box), place);
}

function settings() {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))].sort();
  const text = (value) => (value === undefined ? "–" : JSON.stringify(value));
  const differ = keys.filter((key) => new Set(runs.map((run) => text(run.settings[key]))).size > 1);
  const rows = (which) => which.map((key) => [h("code", {}, key), ...runs.map((run) => text(run.settings[key]))]);
  const heads = [["setting", ""], ...runs.map((run) => [run.name, ""])];
  return h("section", {}, h("h2", {}, "Settings"),
    runs.length > 1 && differ.length > 0 && [h("p", {}, "Where the runs differ:"), table("settings that differ", heads, rows(differ))],
    h("details", {}, h("summary", {}, `all ${keys.length} settings`), table("settings", heads, rows(keys))),
    h("p", { class: "muted" }, "Numbers of tokens are kept in half precision: they are off by 0.05 % at most, below 0.00006 by 0.00000003. Texts, token ids, marks, scores and rewards are exact."));
}
