// The strip: tokens of completions as continuous text, of which only what is visible
// exists in the document. 160,000 tokens scroll as well as 100.

import { palette } from "microscope/colours";
import { h } from "microscope/dom";
import { short } from "microscope/text";

const LINE = 25; // pixels
const HEAD = 40;
const GAP = 8; // below a completion
const AHEAD = 8; // rows beyond what is visible that are made already
const PADDING = 2; // of a token, left and right together

const canvas = document.createElement("canvas").getContext("2d");

export class Strip {
  // on: { pick(block, i), hover(block, i or null) }; name: a prefix of element ids.
  constructor(name, label, on) {
    this.name = name;
    this.on = on;
    this.inner = h("div", { class: "strip-inner" });
    this.root = h("div", {
      class: "strip", tabindex: "0", role: "application", "aria-label": label,
      "aria-roledescription": "tokens", onscroll: () => this.soon(),
    }, this.inner);
    this.inner.addEventListener("mouseover", (event) => this.over(event));
    this.inner.addEventListener("mouseleave", () => on.hover(this.block, null));
    this.inner.addEventListener("click", (event) => {
      const i = place(event.target);
      if (i !== null) on.pick(this.block, i);
    });
    this.rows = [];
    this.made = new Map(); // row → element
    this.paint = null;
    this.selected = null;
    this.resize = new ResizeObserver(() => this.layout());
    this.resize.observe(this.root);
  }

  // Shows completions of a block; head(c) makes what stands above one.
  show(block, completions, head) {
    Object.assign(this, { block, completions, head, widths: null, width: 0 });
    this.layout();
  }

  // paint: { level(i), kind, dim(i), match(i) } decide what a token looks like.
  colour(paint) {
    this.paint = paint;
    this.redraw();
  }

  select(i, { scroll = true } = {}) {
    const before = this.selected;
    this.selected = i;
    for (const at of [before, i]) this.element(at)?.classList.toggle("selected", at === i);
    if (i !== null && scroll) this.reveal(i);
    if (i === null) this.root.removeAttribute("aria-activedescendant");
    else this.root.setAttribute("aria-activedescendant", this.id(i));
  }

  id(i) { return `${this.name}-${i}`; }
  element(i) { return i === null ? null : document.getElementById(this.id(i)); }

  // Breaks the tokens into lines that fit the width.
  layout() {
    const width = this.root.clientWidth - 20;
    if (!this.block || width <= 0 || width === this.width) return;
    const anchor = this.anchor();
    this.width = width;
    this.measure();
    const { tokens, starts } = this.block;
    this.rows = [];
    this.left = this.left?.length === tokens.length ? this.left : new Float32Array(tokens.length);
    let y = 0;
    for (const c of this.completions) {
      this.rows.push({ y, height: HEAD, head: c });
      y += HEAD;
      let from = starts[c], x = 0;
      const end = (to) => {
        this.rows.push({ y, height: LINE, from, to, c });
        y += LINE;
        from = to;
        x = 0;
      };
      for (let i = starts[c]; i < starts[c + 1]; i++) {
        const wide = Math.min(this.widths[tokens[i]], width);
        if (x + wide > width && i > from) end(i);
        this.left[i] = x;
        x += wide;
        if (this.breaks[tokens[i]]) end(i + 1);
      }
      if (from < starts[c + 1] || starts[c] === starts[c + 1]) end(starts[c + 1]);
      y += GAP;
    }
    this.inner.style.height = `${y}px`;
    this.clear();
    if (anchor !== null) this.root.scrollTop = this.rowOf(anchor).y;
    this.draw();
  }

  // The first token that is visible, to stay there when the width changes.
  anchor() {
    const row = this.rows[this.rowAt(this.root.scrollTop)];
    return row && this.root.scrollTop > 0 && row.from < row.to ? row.from : null;
  }

  // The width of every different string, once.
  measure() {
    if (this.widths) return;
    const { fontSize, fontFamily } = getComputedStyle(this.inner);
    canvas.font = `${fontSize} ${fontFamily}`;
    const { strings } = this.block;
    this.shown = strings.map((text) => short(text) || "∅");
    this.widths = Float32Array.from(this.shown, (text) => Math.ceil(canvas.measureText(text).width * 4) / 4 + PADDING);
    this.breaks = strings.map((text) => text.includes("\n"));
    this.tall = this.shown.map((text) => /\p{M}{3}/u.test(text)); // marks on marks
  }

  // Index of the row at a height.
  rowAt(y) {
    let low = 0, high = this.rows.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.rows[middle].y <= y) low = middle; else high = middle - 1;
    }
    return low;
  }

  rowIndexOf(i) {
    const c = this.block.completionOf(i);
    let low = this.rows.findIndex((row) => row.head === c);
    if (low < 0) return null;
    let high = low + 1;
    while (high < this.rows.length && this.rows[high].head === undefined) high++;
    for (let row = low + 1; row < high; row++) if (i < this.rows[row].to) return row;
    return low;
  }

  rowOf(i) { return this.rows[this.rowIndexOf(i) ?? 0]; }

  reveal(i) {
    const at = this.rowIndexOf(i);
    if (at === null) return;
    const row = this.rows[at], { scrollTop, clientHeight } = this.root;
    if (row.y < scrollTop + LINE || row.y + LINE > scrollTop + clientHeight - LINE) {
      this.root.scrollTop = Math.max(0, row.y - clientHeight / 2);
    }
    this.draw();
  }

  // To the head of a completion.
  revealCompletion(c) {
    const row = this.rows.find((r) => r.head === c);
    if (row) this.root.scrollTop = row.y;
    this.draw();
  }

  // The token a line above or below, nearest to where this one begins.
  vertical(i, direction) {
    let at = this.rowIndexOf(i) ?? 0;
    do at += direction; while (this.rows[at] && !(this.rows[at].from < this.rows[at].to));
    const row = this.rows[at];
    if (!row) return i;
    let best = row.from;
    for (let j = row.from; j < row.to; j++) if (this.left[j] <= this.left[i] + 1) best = j;
    return best;
  }

  soon() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = null; this.draw(); });
  }

  clear() {
    for (const element of this.made.values()) element.remove();
    this.made.clear();
  }

  redraw() { this.clear(); this.draw(); }

  draw() {
    if (!this.rows.length || !this.paint) return;
    const top = this.root.scrollTop;
    const first = Math.max(0, this.rowAt(top) - AHEAD);
    const last = Math.min(this.rows.length - 1, this.rowAt(top + this.root.clientHeight) + AHEAD);
    for (const [row, element] of this.made) {
      if (row < first || row > last) { element.remove(); this.made.delete(row); }
    }
    const fresh = document.createDocumentFragment();
    for (let row = first; row <= last; row++) {
      if (this.made.has(row)) continue;
      const element = this.rows[row].head === undefined ? this.line(this.rows[row]) : this.above(this.rows[row]);
      this.made.set(row, element);
      fresh.append(element);
    }
    this.inner.append(fresh);
  }

  above(row) {
    const element = h("div", { class: "strip-head" }, this.head(row.head));
    element.style.transform = `translateY(${row.y}px)`;
    return element;
  }

  line(row) {
    const { block, paint } = this;
    const element = document.createElement("div");
    element.className = "strip-line";
    element.style.transform = `translateY(${row.y}px)`;
    const colours = palette(paint.kind);
    const last = block.starts[row.c + 1] - 1;
    for (let i = row.from; i < row.to; i++) {
      const token = document.createElement("span");
      const string = block.tokens[i];
      token.id = this.id(i);
      token.textContent = this.shown[string];
      token.style.left = `${this.left[i]}px`;
      token.style.width = `${Math.min(this.widths[string], this.width)}px`;
      const dim = paint.dim(i);
      const level = dim ? -1 : paint.level(i);
      if (level >= 0) {
        token.style.background = colours[level].background;
        token.style.color = colours[level].text;
      }
      let kind = "token";
      if (this.tall[string] || this.widths[string] > this.width) kind += " clip";
      if (dim) kind += " dim";
      if (block.clippedLow(i)) kind += " low";
      if (block.clippedHigh(i)) kind += " high";
      if (block.dualClipped(i)) kind += " dual";
      if (!block.counted(i)) kind += " masked";
      if (i === last && block.completions[row.c].truncated) kind += " cut";
      if (paint.match(i)) kind += " match";
      if (i === this.selected) kind += " selected";
      token.className = kind;
      element.append(token);
    }
    if (row.from === row.to) element.append(h("span", { class: "token empty" }, "no token"));
    return element;
  }

  over(event) {
    const i = place(event.target);
    if (i !== null) this.on.hover(this.block, i);
  }

  close() { this.resize.disconnect(); }
}

// The token that an element is, or null.
function place(element) {
  const found = element.closest?.(".token");
  const number = found?.id.slice(found.id.lastIndexOf("-") + 1);
  return number ? Number(number) : null;
}
