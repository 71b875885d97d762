// Elements. Text goes in as text alone: nothing here reads HTML.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

// A select with options [value, label]; `change` gets the value.
export function select(label, options, value, change) {
  const box = h("select", { "aria-label": label, onchange: () => change(box.value) },
    options.map(([v, text]) => h("option", { value: v, selected: String(v) === String(value) }, text)));
  return box;
}

export function button(label, act, attributes = {}) {
  return h("button", { type: "button", onclick: act, ...attributes }, label);
}

// A table: heads [text, class], rows of cells; a row may be a link: { go, cells }.
export function table(caption, heads, rows) {
  return h("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
      h("tbody", {}, rows.map((cells) => h("tr", {},
        cells.map((cell, i) => h("td", { class: heads[i][1] }, cell)))))));
}

// ‹ one of many ›: a select between buttons to the one before and the next.
export function stepper(name, options, value, change) {
  const at = options.findIndex(([v]) => v === value);
  const move = (by) => options[at + by] && change(options[at + by][0]);
  return h("span", { class: "stepper" },
    button("‹", () => move(-1), { "aria-label": `${name} before`, class: "quiet", disabled: at <= 0 }),
    select(name, options, value, (v) => change(options.find(([known]) => String(known) === v)[0])),
    button("›", () => move(1), { "aria-label": `next ${name}`, class: "quiet", disabled: at + 1 >= options.length }));
}
