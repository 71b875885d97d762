// The state of the view, which is in the URL's hash: a place can be sent to a colleague.

export const DEFAULTS = {
  page: "overview",
  run: 0,
  step: null,
  group: null,
  completion: null, // place in the step's records
  token: null, // place in the completion
  colour: "entropy",
  search: "",
  answer: "", // right, wrong
  truncated: "", // yes, no
  length: "", // least-most
  tokens: "", // clipped, uncertain, confident, masked
  by: "entropy", // of the lists
  end: "largest",
  scope: "step",
  with: null, // compare: RUN.STEP of the other side
  problem: null,
};
const NUMBERS = new Set(["run", "step", "group", "completion", "token"]);

export const state = { ...DEFAULTS };
const listeners = [];
let written = null;

export function listen(listener) { listeners.push(listener); }

// Changes the state and the hash, and tells who listens what has changed.
export function go(changes, { replace = false } = {}) {
  const changed = Object.keys(changes).filter((key) => state[key] !== changes[key]);
  if (!changed.length) return;
  Object.assign(state, changes);
  write(replace);
  tell(changed);
}

// Changes without telling, for what the page itself has settled.
export function settle(changes) {
  Object.assign(state, changes);
  write(true);
}

export function hash() {
  const pairs = Object.entries(state).filter(([key, value]) =>
    value !== null && value !== "" && (value !== DEFAULTS[key] || key === "page"));
  return `#${new URLSearchParams(pairs)}`;
}

export function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const next = { ...DEFAULTS };
  for (const [key, text] of given) {
    if (!(key in DEFAULTS)) continue;
    if (!NUMBERS.has(key)) next[key] = text;
    else if (/^\d+$/.test(text)) next[key] = Number(text);
  }
  return next;
}

export function start() {
  Object.assign(state, read());
  written = location.hash;
  addEventListener("hashchange", () => {
    if (location.hash === written) return;
    written = location.hash;
    const next = read();
    const changed = Object.keys(next).filter((key) => state[key] !== next[key]);
    Object.assign(state, next);
    if (changed.length) tell(changed);
  });
}

function write(replace) {
  const next = hash();
  if (next === location.hash) return;
  written = next;
  try {
    history[replace ? "replaceState" : "pushState"](null, "", next);
  } catch { // a frame without an address of its own, as in a notebook
    location.hash = next;
  }
}

function tell(changed) {
  for (const listener of listeners) listener(new Set(changed));
}
