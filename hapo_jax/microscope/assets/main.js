// Puts the page together: which view is shown, the keyboard, the theme.

import { forget } from "microscope/charts";
import { compare } from "microscope/compare";
import { block as load, runs } from "microscope/data";
import { h } from "microscope/dom";
import { group, resolve, STRUCTURE } from "microscope/group";
import { dual, extreme } from "microscope/lists";
import { overview } from "microscope/overview";
import { QUANTITIES, there } from "microscope/quantities";
import { go, listen, start as startState, state } from "microscope/state";
import { step, steps } from "microscope/steps";

const PAGES = { overview: "Overview", steps: "Steps", step: "Groups", group: "Tokens", extreme: "Extremes", dual: "Dual entropy", compare: "Compare" };
const KEYS = [
  ["← →", "token before, next"], ["↑ ↓", "line above, below"], ["j k", "next completion, before"],
  ["g G", "next group, before"], ["s S", "next step, before"], ["c C", "next colour, before"],
  ["/", "search"], ["n N", "next place found or filtered, before"], ["1 – 7", "pages"],
  ["t", "light or dark"], ["Esc", "select nothing"], ["?", "this list"],
];
// What makes a page be built anew; the rest it changes itself.
const BUILT = {
  overview: ["page"], steps: ["page", "run"], step: ["page", "run", "step", "search"], group: STRUCTURE,
  extreme: ["page", "run", "step", "scope", "by", "end"], dual: ["page", "run", "step", "scope"],
  compare: ["page", "run", "step", "with", "problem"],
};

const root = document.getElementById("main");
const live = document.getElementById("live");
let page = null, turn = 0;

const announce = (text) => { live.textContent = text; };

export function start() {
  startState();
  themes();
  tabs();
  document.getElementById("title").textContent = runs.map((run) => run.name).join(" · ");
  document.getElementById("help").addEventListener("click", help);
  document.getElementById("theme").addEventListener("click", turnTheme);
  listen((changed) => {
    if (!PAGES[state.page]) state.page = "overview";
    if (BUILT[state.page].some((key) => changed.has(key))) build();
    else page?.update?.(changed);
  });
  addEventListener("keydown", keys);
  build();
}

async function build() {
  const mine = ++turn;
  page?.close?.();
  page = null;
  forget();
  if (!PAGES[state.page]) state.page = "overview";
  for (const tab of document.querySelectorAll("#tabs button")) {
    if (tab.dataset.page === state.page) {
      tab.setAttribute("aria-current", "page");
      tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else tab.removeAttribute("aria-current");
  }
  const view = h("div", { class: `view ${state.page}` });
  root.replaceChildren(view);
  root.setAttribute("aria-busy", "true");
  let made = null;
  try {
    made = await views[state.page](view);
  } catch (error) {
    if (mine !== turn) return;
    view.append(h("p", { class: "note", role: "alert" }, `This view failed: ${error.message}`));
    console.error(error);
  }
  if (mine !== turn) { made?.close?.(); return; }
  page = made ?? null;
  root.removeAttribute("aria-busy");
  document.title = `${PAGES[state.page]} – ${runs.map((run) => run.name).join(" · ")}`;
}

const views = {
  overview: (view) => overview(view),
  steps: (view) => steps(view),
  async step(view) {
    const at = resolve();
    const found = state.search && at ? await load(state.run, at.step.step) : null;
    const wanted = state.search.toLowerCase();
    step(view, { filter: (id) => found?.inGroup(id).some((c) => found.text(c).toLowerCase().includes(wanted)) });
  },
  group: (view) => group(view, announce),
  extreme: (view) => extreme(view),
  dual: (view) => dual(view),
  compare: (view) => compare(view, announce),
};

function tabs() {
  document.getElementById("tabs").append(...Object.entries(PAGES).map(([id, title]) =>
    h("button", { type: "button", "data-page": id, onclick: () => go({ page: id }) }, title)));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing && event.key === "Escape") { event.target.blur(); return; }
  if (typing) return;
  if (event.target.closest?.("button, summary") && [" ", "Enter"].includes(event.key)) return;
  if (act(event.key)) event.preventDefault();
}

function act(key) {
  const search = document.getElementById("search");
  if (key === "/" && search) { search.focus(); search.select(); return true; }
  if (key === "?") { help(); return true; }
  if (key === "t") { turnTheme(); return true; }
  if (key === "c" || key === "C") { colour(key === "c" ? 1 : -1); return true; }
  const target = Object.keys(PAGES)[Number(key) - 1];
  if (/^[1-7]$/.test(key) && target) { go({ page: target }); return true; }
  return page?.key?.(key) ?? false;
}

function colour(by) {
  const known = page?.block ? there(page.block) : QUANTITIES;
  const at = known.findIndex((q) => q.id === state.colour);
  go({ colour: known[(at + by + known.length) % known.length].id }, { replace: true });
}

function help() {
  const dialog = h("dialog", { class: "help", "aria-labelledby": "help-title", onclose: () => dialog.remove() },
    h("h2", { id: "help-title" }, "Keys"),
    h("dl", {}, KEYS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("p", { class: "muted" }, "The address holds the place and the view: copy it to send it to somebody who has the file."),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "close")));
  document.body.append(dialog);
  dialog.showModal();
}

function themes() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { document.documentElement.dataset.theme = dark.matches ? "dark" : "light"; };
  follow();
  dark.addEventListener("change", () => { follow(); repaint(); });
}

function turnTheme() {
  const { dataset } = document.documentElement;
  dataset.theme = dataset.theme === "dark" ? "light" : "dark";
  repaint();
}

function repaint() {
  if (page?.repaint) page.repaint(); else build();
}
