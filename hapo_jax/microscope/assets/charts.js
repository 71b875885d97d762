// Curves and distributions, drawn by uPlot.

import { h } from "microscope/dom";
import { number, tick } from "microscope/text";

const drawn = new Set();
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const seriesColour = (i) => style(`--series-${i % 6}`);

const watch = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const chart = target.chart;
    const width = Math.floor(contentRect.width);
    if (chart && width > 0 && width !== chart.width) chart.setSize({ width, height: chart.height });
  }
});

// lines: [{ label, x, y, colour, low, high, points, dash }], x ascending. Returns a figure.
export function chart(title, lines, { x = "step", height = 186, stepped = false, from0 = false, limits = null } = {}) {
  const box = h("div", { class: "chart" });
  const figure = h("figure", { class: "panel-chart" }, h("figcaption", {}, title), box, h("p", { class: "visually-hidden" }, summary(title, lines)));
  requestAnimationFrame(() => {
    if (box.isConnected) draw(box, lines, { x, height, stepped, from0, limits });
  });
  return figure;
}

function draw(box, lines, { x, height, stepped, from0, limits }) {
  const xs = [...new Set(lines.flatMap((line) => Array.from(line.x)))].sort((a, b) => a - b);
  const place = new Map(xs.map((value, i) => [value, i]));
  const spread = (line, values) => {
    const out = new Array(xs.length).fill(null);
    line.x.forEach((value, i) => { if (Number.isFinite(values[i])) out[place.get(value)] = values[i]; });
    return out;
  };
  const data = [xs], series = [{ label: x }], bands = [];
  for (const line of lines) {
    const few = line.x.length <= 40;
    data.push(spread(line, line.y));
    series.push({
      label: line.label, stroke: line.colour, width: 1.75, spanGaps: true, dash: line.dash,
      points: { show: line.points ?? few, size: 5, fill: line.colour },
      value: (_, value) => (value === null || value === undefined ? "–" : number(value)),
      paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      fill: stepped ? `${line.colour}22` : undefined,
    });
    const at = series.length - 1;
    if (line.low) {
      for (const values of [line.high, line.low]) {
        data.push(spread(line, values));
        series.push({ label: "", stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
      }
      bands.push({ series: [at + 1, at + 2], fill: `${line.colour}2b` });
    }
  }
  const axis = { stroke: style("--muted"), grid: { stroke: style("--grid"), width: 1 }, ticks: { show: false }, font: `11px ${style("--sans")}` };
  const chart = new uPlot({
    width: Math.max(box.clientWidth, 120), height,
    padding: [8, 18, 0, 0],
    scales: {
      x: { time: false },
      y: { range: (_, low, high) => range(low, high, from0, limits) },
    },
    axes: [
      { ...axis, size: 26, label: x, labelSize: 16, labelGap: 0, labelFont: axis.font, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) || stepped ? tick(t) : "")) },
      { ...axis, size: 52, values: (_, ticks) => ticks.map(tick) },
    ],
    legend: { show: false },
    cursor: { drag: { x: true, y: false }, points: { size: 6 } },
    series, bands,
    hooks: { setCursor: [(u) => tell(u, box, lines, x)] },
  }, data, box);
  box.prepend(h("div", { class: "chart-legend" }, lines.length > 1 && lines.map((line) => {
    const mark = h("i");
    mark.style.background = line.colour;
    return h("span", {}, mark, line.label);
  })));
  box.append(h("div", { class: "chart-value", "aria-hidden": "true" }));
  box.chart = chart;
  drawn.add(chart);
  watch.observe(box);
}

// The values under the pointer.
function tell(chart, box, lines, x) {
  const out = box.querySelector(".chart-value");
  if (!out) return;
  const at = chart.cursor.idx;
  if (at === null || at === undefined) { out.textContent = ""; return; }
  const parts = [];
  chart.series.forEach((one, i) => {
    const value = chart.data[i][at];
    if (i && one.label && value !== null) parts.push(lines.length > 1 ? `${one.label} ${number(value)}` : number(value));
  });
  out.textContent = parts.length ? `${x} ${number(chart.data[0][at], 4)}: ${parts.join(" · ")}` : "";
}

function range(low, high, from0, limits) {
  if (limits) return limits;
  if (low === null || high === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return [from0 && low >= 0 ? 0 : low - room, high + room];
}

function summary(title, lines) {
  return lines.map((line) => {
    const finite = Array.from(line.y).filter(Number.isFinite);
    return `${title}, ${line.label}: from ${number(finite[0])} to ${number(finite.at(-1))}, ${finite.length} values.`;
  }).join(" ");
}

export function forget() {
  for (const chart of drawn) {
    watch.unobserve(chart.root.parentElement ?? chart.root);
    chart.destroy();
  }
  drawn.clear();
}

// Shares of values in equal bins, between ends that all lines share.
export function histogram(columns, bins = 48) {
  const finite = columns.map((column) => column.filter(Number.isFinite).sort());
  const q = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];
  const known = finite.filter((sorted) => sorted.length);
  if (!known.length) return null;
  let low = Math.min(...known.map((s) => q(s, 0.002))), high = Math.max(...known.map((s) => q(s, 0.998)));
  if (!(high > low)) { low -= 0.5; high += 0.5; }
  const x = Float64Array.from({ length: bins + 1 }, (_, i) => low + ((high - low) * i) / bins);
  return finite.map((sorted) => {
    const y = new Float64Array(bins + 1);
    for (const value of sorted) {
      const bin = Math.floor(((value - low) / (high - low)) * bins);
      y[Math.min(Math.max(bin, 0), bins - 1)] += 1 / sorted.length;
    }
    y[bins] = y[bins - 1];
    return { x, y };
  });
}
