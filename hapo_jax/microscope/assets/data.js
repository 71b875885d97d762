// The report's data: an index that is there at once, and blocks that are unpacked when
// they are looked at.

import { decode, fromPlanes } from "microscope/columns";

export const index = JSON.parse(document.getElementById("index").textContent);
export const runs = index.runs;

const unpacked = new Map(); // id → promise

async function unpack(id) {
  const text = document.getElementById(id).textContent;
  const packed = bytes(text);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const whole = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(whole.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + length)));
  return { header, body: whole.subarray(4 + length) };
}

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

function once(id, make) {
  if (!unpacked.has(id)) unpacked.set(id, unpack(id).then(make));
  return unpacked.get(id);
}

// The curves of a run: { step: Int32Array, values: Map name → Float32Array }.
export function metrics(run) {
  return once(`metrics-${run}`, ({ header, body }) => {
    const values = new Map();
    for (const form of header.columns) {
      const data = body.subarray(form.start, form.start + form.bytes);
      values.set(form.name, fromPlanes(data, form.kind, header.size));
    }
    const step = values.get("step");
    values.delete("step");
    return { step, values };
  });
}

// The records of a step; a promise of a Block.
export function block(run, step) {
  return once(`step-${run}-${step}`, (unpacked) => new Block(run, step, unpacked));
}

// Kept as distances to the old log-prob.
const GAPS = { behavior_logprobs: "behavior_gap", logprobs: "log_ratio" };

// Column i of every array of a block is about its i-th token; completion c has the
// tokens from starts[c] up to and without starts[c + 1].
export class Block {
  constructor(run, step, { header, body }) {
    this.run = run;
    this.step = step;
    this.strings = header.strings;
    this.ids = header.ids;
    this.prompts = header.prompts;
    this.completions = header.completions;
    this.starts = new Uint32Array(header.lengths.length + 1);
    header.lengths.forEach((n, c) => { this.starts[c + 1] = this.starts[c] + n; });
    this.size = this.starts[header.lengths.length];
    this.forms = new Map(header.columns.map((form) => [form.name, form]));
    this.body = body;
    this.columns = new Map();
    this.tokens = this.raw("tokens");
    this.flags = this.raw("flags");
    this.flagged = new Set(header.flags);
    this.groups = [...new Set(this.completions.map((c) => c.group))];
  }

  raw(name) {
    const form = this.forms.get(name);
    const data = this.body.subarray(form.start, form.start + form.bytes);
    return fromPlanes(data, form.kind, this.size);
  }

  // A column of numbers, or null where it was not recorded.
  column(name) {
    if (this.columns.has(name)) return this.columns.get(name);
    const gap = this.gap(name);
    const values = gap ? this.sum("old_logprobs", gap) : this.stored(name);
    this.columns.set(name, values);
    return values;
  }

  // The distance that a column is kept as; undefined if it is kept as it is.
  gap(name) { return this.forms.has(name) ? undefined : GAPS[name]; }

  stored(name) {
    const form = this.forms.get(name);
    if (!form) return null;
    const data = this.body.subarray(form.start, form.start + form.bytes);
    return decode(form, data, this.size, (source) => this.column(source));
  }

  // Whether a column was recorded, without unpacking it.
  has(name) {
    const gap = this.gap(name);
    return gap ? this.forms.has("old_logprobs") && this.forms.has(gap) : this.forms.has(name);
  }

  sum(a, b) {
    const x = this.column(a), y = this.column(b);
    return x && y ? x.map((value, i) => value + y[i]) : null;
  }

  string(i) { return this.strings[this.tokens[i]]; }
  counted(i) { return !this.flagged.has("counted") || (this.flags[i] & 1) !== 0; }
  clippedLow(i) { return (this.flags[i] & 2) !== 0; }
  clippedHigh(i) { return (this.flags[i] & 4) !== 0; }
  dualClipped(i) { return (this.flags[i] & 8) !== 0; }
  clipped(i) { return (this.flags[i] & 14) !== 0; }
  length(c) { return this.starts[c + 1] - this.starts[c]; }

  // The completion that token i belongs to.
  completionOf(i) {
    let low = 0, high = this.completions.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= i) low = middle; else high = middle - 1;
    }
    return low;
  }

  inGroup(group) {
    return this.completions.flatMap((c, i) => (c.group === group ? [i] : []));
  }

  // The text that the tokens of a completion spell.
  text(c) {
    const parts = [];
    for (let i = this.starts[c]; i < this.starts[c + 1]; i++) parts.push(this.string(i));
    return parts.join("");
  }
}
