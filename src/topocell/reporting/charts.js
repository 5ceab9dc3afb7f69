// Charts of a page, drawn by Observable Plot from the data that stands in it. Colours are variables of the style sheet,
// so that they follow the theme; what a colour tells, dashes, symbols or labels tell too.
"use strict";

const DASHES = { solid: null, dashed: "6 3", dotted: "1.5 3", dashdot: "6 3 1.5 3" };
const SYMBOLS = { sep_conv: "circle", dil_conv: "diamond", conv: "square", pool: "triangle", skip: "cross", other: "asterisk" };
const STYLE = { background: "none", color: "inherit", fontSize: "12px", fontFamily: "inherit" };
const ink = (role) => `var(--${role})`;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shown(value) {
  if (value === null || value === undefined) return "—";
  return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
}

// --- curves over epochs

function pointsOf(panel) {
  return panel.lines.map((line) =>
    panel.epochs
      .map((epoch, k) => ({
        epoch,
        value: line.values[k],
        low: line.low[k] ?? null,
        high: line.high[k] ?? null,
        label: line.label,
        piece: panel.starts.filter((start) => start <= epoch).length,
      }))
      .filter((point) => point.value !== null),
  );
}

function wholeTicks(low, high, room) {
  const ticks = d3.ticks(low, high, Math.max(2, Math.floor(room))).filter(Number.isInteger);
  return ticks.length ? ticks : [Math.round(low)];
}

function span(panel, lines) {
  const values = lines.flat().flatMap((point) => [point.value, point.low, point.high]).filter((value) => value !== null);
  if (panel.rule !== null) values.push(panel.rule);
  let [low, high] = d3.extent(values);
  const least = Math.max(panel.least, 1e-3 * Math.abs(low), 1e-3 * Math.abs(high), 1e-9);
  if (high - low < least) {
    const middle = (low + high) / 2;
    low = low >= 0 ? Math.max(middle - least / 2, -0.05 * least) : middle - least / 2;
    high = low + least;
  }
  const room = 0.04 * (high - low);
  return [low - (low === 0 ? 0 : room), high + room];
}

function stageMarks(panel) {
  const starts = panel.starts.map((start, k) => ({ at: start - 0.5, number: String(k + 1) }));
  return [
    Plot.ruleX(starts.slice(1), { x: "at", stroke: ink("muted"), strokeDasharray: "4 3" }),
    Plot.text(starts, { x: "at", text: "number", frameAnchor: "top", dy: -12, dx: 3, textAnchor: "start", fill: ink("soft") }),
  ];
}

function curves(panel, width) {
  const lines = pointsOf(panel);
  const [first, last] = [panel.epochs[0], panel.epochs[panel.epochs.length - 1]];
  const domain = span(panel, lines);
  const few = lines.every((points) => points.length <= 12);
  const marks = [Plot.gridY({ stroke: ink("rule"), strokeOpacity: 1 }), ...stageMarks(panel)];
  if (panel.rule !== null) marks.push(Plot.ruleY([panel.rule], { stroke: ink("muted") }));
  lines.forEach((points, k) => {
    const { colour, dashes, label } = panel.lines[k];
    const band = points.filter((point) => point.low !== null);
    const xy = { x: "epoch", y: "value", z: "piece", stroke: ink(colour) };
    if (band.length)
      marks.push(Plot.areaY(band, { x: "epoch", y1: "low", y2: "high", z: "piece", fill: ink(colour), fillOpacity: 0.18 }));
    marks.push(Plot.lineY(points, { ...xy, strokeWidth: label ? 1.8 : 0.9, strokeDasharray: DASHES[dashes], strokeOpacity: label ? 1 : 0.8 }));
    if (few) marks.push(Plot.dot(points, { x: "epoch", y: "value", r: label ? 2.2 : 1.2, fill: ink(colour) }));
  });
  marks.push(tip(lines.flat()));
  return Plot.plot({
    width, height: 210, marginLeft: 46, marginRight: 12, marginTop: panel.starts.length ? 24 : 12, marginBottom: 34, style: STYLE,
    x: { domain: [first - 0.5, last + 0.5], ticks: wholeTicks(first, last, width / 60), tickFormat: "d", label: panel.x, labelArrow: "none" },
    y: { domain, label: null, ...(panel.whole ? { ticks: wholeTicks(...domain, 5), tickFormat: "d" } : { ticks: 5 }) },
    marks,
  });
}

function tip(points) {
  return Plot.tip(points, Plot.pointer({
    x: "epoch", y: "value", fill: ink("paper"), stroke: ink("faint"), textPadding: 6,
    title: (point) => `${point.label ? `${point.label}\n` : ""}epoch ${point.epoch}: ${shown(point.value)}`
      + (point.low !== null ? ` (${shown(point.low)} to ${shown(point.high)})` : ""),
  }));
}

function stack(panel, width) {
  const base = panel.epochs.map(() => 0);
  const [first, last] = [panel.epochs[0], panel.epochs[panel.epochs.length - 1]];
  const blocks = panel.lines.flatMap((line) =>
    panel.epochs.map((epoch, k) => {
      const from = base[k];
      base[k] += line.values[k] ?? 0;
      return { epoch, from, to: base[k], label: line.label, colour: ink(line.colour), strength: { solid: 0.85, dashed: 0.55, dotted: 0.35, dashdot: 0.2 }[line.dashes] };
    }),
  ).filter((block) => block.to > block.from);
  const top = d3.max(base);
  const ends = blocks.filter((block) => block.epoch === last).map((block) => ({ ...block, middle: (block.from + block.to) / 2 }));
  return Plot.plot({
    width, height: 230, marginLeft: 34, marginRight: 66, marginTop: panel.starts.length ? 24 : 12, marginBottom: 34, style: STYLE,
    x: { domain: [first - 0.5, last + 0.5], ticks: wholeTicks(first, last, width / 60), tickFormat: "d", label: panel.x, labelArrow: "none" },
    y: { domain: [0, top], ticks: wholeTicks(0, top, 6), tickFormat: "d", label: null },
    marks: [
      Plot.rect(blocks, { x1: (b) => b.epoch - 0.5, x2: (b) => b.epoch + 0.5, y1: "from", y2: "to", fill: "colour", fillOpacity: (b) => b.strength, stroke: ink("paper"), strokeWidth: 0.7, title: (b) => `${b.label}: ${b.to - b.from}, epoch ${b.epoch}` }),
      Plot.text(ends, { x: last + 0.5, y: "middle", text: (b) => `${b.label} ${b.to - b.from}`, textAnchor: "start", dx: 5, fill: ink("ink"), fontSize: 11 }),
      ...stageMarks(panel),
    ],
    opacity: { type: "identity" },
  });
}

function swatch(line) {
  const dash = DASHES[line.dashes];
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" })) mark.setAttribute(key, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ d: "M0 4H26", "stroke-width": 2, fill: "none", ...(dash ? { "stroke-dasharray": dash } : {}) })) path.setAttribute(key, value);
  path.style.stroke = ink(line.colour);
  mark.append(path);
  return element("span", {}, mark, line.label);
}

function summary(panel) {
  const told = panel.lines.filter((line) => line.label).map((line) => {
    const known = line.values.filter((value) => value !== null);
    return `${line.label} from ${shown(known[0])} to ${shown(known[known.length - 1])}`;
  });
  return `${panel.title}${panel.unit ? `, ${panel.unit}` : ""}, over the ${panel.x} ${panel.epochs[0]} to ${panel.epochs[panel.epochs.length - 1]}. ${told.join("; ")}`;
}

function panelCard(panel, width) {
  const chart = (panel.stacked ? stack : curves)(panel, width);
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", summary(panel));
  const card = element("div", { class: "panel" }, element("h4", {}, `${panel.title}${panel.unit ? `, ${panel.unit}` : ""}`), chart);
  const named = panel.lines.filter((line) => line.label);
  if (named.length && !panel.stacked) card.append(element("p", { class: "legend" }, ...named.map(swatch)));
  return card;
}

// --- the architecture of an epoch

function heatMap(cell, n, width) {
  const operations = cell.operations.map((operation) => operation.label);
  const gates = cell.gates[n];
  const columns = gates ? [...operations, "edge"] : operations;
  const kept = new Set(cell.kept[n].map(([edge, operation]) => `${edge} ${operation}`));
  const edges = new Set(cell.kept[n].map(([edge]) => edge));
  const squares = cell.edges.flatMap((edge, e) =>
    operations.map((operation, k) => ({ edge, operation, value: cell.weights[n][e][k], kept: kept.has(`${e} ${k}`), least: cell.least, most: cell.most, fill: ink("heat") })));
  if (gates) {
    const [least, most] = d3.extent(cell.gates.filter((of) => of).flat());
    cell.edges.forEach((edge, e) => squares.push({ edge, operation: "edge", value: gates[e], kept: edges.has(e), least: most - least > 1e-6 ? least : 0, most, fill: ink("gate") }));
  }
  const there = squares.filter((square) => square.value !== null);
  const room = (width - 52) / columns.length;
  return Plot.plot({
    width, height: 20 * cell.edges.length + 66, marginLeft: 44, marginRight: 8, marginTop: 58, marginBottom: 4, style: STYLE,
    x: { domain: columns, axis: "top", label: null, tickSize: 0, tickRotate: room < 56 ? -50 : 0, padding: 0.06 },
    y: { domain: cell.edges, label: null, tickSize: 0, padding: 0.08 },
    opacity: { type: "identity" },
    marks: [
      Plot.cell(there, { x: "operation", y: "edge", fill: "fill", fillOpacity: (s) => 0.04 + 0.96 * Math.max(0, Math.min(1, (s.value - s.least) / (s.most - s.least || 1))), title: (s) => `${s.edge} ${s.operation}: ${shown(s.value)}` }),
      Plot.cell(squares.filter((square) => square.value === null), { x: "operation", y: "edge", fill: "none", stroke: ink("rule"), strokeDasharray: "2 3" }),
      Plot.cell(there.filter((square) => square.kept), { x: "operation", y: "edge", fill: "none", stroke: ink("ink"), strokeWidth: 2 }),
      ...(room >= 30 ? [Plot.text(there, { x: "operation", y: "edge", text: (s) => s.value.toFixed(2).replace(/^0/, ""), fill: ink("ink"), fontSize: 10.5 })] : []),
    ],
  });
}

function choiceBars(group, width) {
  return Plot.plot({
    width, height: 17 * group.choices.length + 6, marginLeft: 72, marginRight: 52, marginTop: 2, marginBottom: 2, style: STYLE,
    x: { domain: [0, Math.max(...group.choices.map((choice) => choice.p), 1e-9)], axis: null },
    y: { domain: group.choices.map((choice) => choice.label), label: null, tickSize: 0, padding: 0.15 },
    marks: [
      Plot.barX(group.choices, { x: "p", y: "label", fill: (choice) => (choice.chosen ? ink("c0") : ink("faint")) }),
      Plot.text(group.choices, { x: "p", y: "label", text: (choice) => `${choice.chosen ? "● " : ""}${(100 * choice.p).toFixed(1)} %`, textAnchor: "start", dx: 4, fill: ink("ink"), fontSize: 11 }),
    ],
  });
}

// --- decisions of a selection

/** What a measure says, and what its place on the axis means. */
function meaning(measure) {
  if (measure.startsWith("accuracy")) return ["accuracy of the supernet without the candidate, %", "Further left: the supernet loses more without it."];
  if (measure.startsWith("loss")) return ["loss of the supernet without the candidate", "Further right: the supernet loses more without it."];
  return ["weight of the candidate", "Further right: stronger."];
}

function strip(decisions, width) {
  const points = decisions.flatMap((decision) => decision.candidates.map((candidate) => ({ ...candidate, row: decision.label })));
  return Plot.plot({
    width, height: 24 * decisions.length + 60, marginLeft: Math.min(150, 0.32 * width), marginRight: 70, marginTop: 8, style: STYLE,
    x: { label: meaning(decisions[0].measure)[0], labelArrow: "none", grid: true, nice: true, ticks: 6 },
    y: { domain: decisions.map((decision) => decision.label), label: null, tickSize: 0 },
    symbol: { type: "identity" },
    marks: [
      Plot.ruleY(d3.groups(points, (p) => p.row).map(([row, of]) => ({ row, low: d3.min(of, (p) => p.value), high: d3.max(of, (p) => p.value) })), { y: "row", x1: "low", x2: "high", stroke: ink("faint") }),
      Plot.dot(points, { x: "value", y: "row", symbol: (p) => SYMBOLS[p.family], stroke: (p) => ink(p.family), fill: (p) => ink(`${p.family}-tint`), r: 4.5, title: (p) => `${p.row}, ${p.label}: ${shown(p.value)}` }),
      Plot.dot(points.filter((p) => p.kept), { x: "value", y: "row", r: 8, stroke: ink("ink"), strokeWidth: 1.6, fill: "none" }),
      Plot.text(decisions.map((d) => ({ row: d.label, words: d.candidates.filter((c) => c.kept).map((c) => c.label).join(", "), at: d3.max(points, (p) => p.value) })), { x: "at", y: "row", text: "words", textAnchor: "start", dx: 14, fill: ink("ink"), fontSize: 11 }),
    ],
  });
}

// --- accuracies of groups of runs

function dots(rows, label, width) {
  const points = rows.flatMap((row) => row.values.map((value) => ({ row: row.label, value })));
  const means = rows.filter((row) => row.mean !== null);
  const bars = means.filter((row) => row.low !== null);
  return Plot.plot({
    width, height: 34 * rows.length + 70, marginLeft: Math.min(230, 0.4 * width), marginRight: 24, marginTop: 8, marginBottom: 44, style: STYLE,
    x: { label, labelArrow: "none", grid: true, nice: true, ticks: 6 },
    y: { domain: rows.map((row) => row.label), label: null, tickSize: 0 },
    marks: [
      Plot.dot(points, { x: "value", y: "row", r: 4, stroke: ink("c0"), fill: ink("c0"), fillOpacity: 0.35, title: (p) => `${p.row}: ${shown(p.value)}` }),
      Plot.ruleY(bars, { y: "label", x1: "low", x2: "high", stroke: ink("ink"), strokeWidth: 1.5, dy: 9 }),
      Plot.dot(means, { x: "mean", y: "label", symbol: "diamond", r: 5, fill: ink("ink"), dy: 9, title: (row) => `${row.label}: mean ${shown(row.mean)}` }),
    ],
  });
}
