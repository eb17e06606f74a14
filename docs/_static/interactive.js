// What the interactive pages share: controls, the state in the address, axes, and a few numerical tools. No dependency.
// A page's own file adds its pure functions as `contrastive.NAME`, where a test or a console can call them, and then calls `contrastive.page`.
"use strict";

window.contrastive = (() => {

// ---- numbers

const range = n => Array.from({length: n}, (_, i) => i);
const sum = xs => xs.reduce((a, b) => a + b, 0);
const dot = (xs, ys) => xs.reduce((a, x, i) => a + x*ys[i], 0);
const linspace = (a, b, n) => range(n).map(i => a + (b - a)*i/(n - 1));
const geomspace = (a, b, n) => linspace(Math.log(a), Math.log(b), n).map(Math.exp);

// log(e^{x_1} + e^{x_2} + ...) without overflow.
function logSumExp(xs) {
  const top = xs.reduce((a, b) => Math.max(a, b), -Infinity);
  return top === -Infinity ? top : top + Math.log(sum(xs.map(x => Math.exp(x - top))));
}

// Shares proportional to e^{x_i}.
function softmax(xs) {
  const total = logSumExp(xs);
  return xs.map(x => Math.exp(x - total));
}

// Root of a function with a change of sign between a and b.
function bisect(f, a, b) {
  const rising = f(b) > 0;
  for (let i = 0; i < 200 && a < b; i++) {
    const mid = (a + b)/2;
    if (mid === a || mid === b) break;
    if ((f(mid) > 0) === rising) b = mid; else a = mid;
  }
  return (a + b)/2;
}

// Place of the least value of a function with one valley between a and b (golden section).
function valley(f, a, b) {
  const part = (Math.sqrt(5) - 1)/2;
  let x = b - part*(b - a), y = a + part*(b - a), fx = f(x), fy = f(y);
  while (b - a > 1e-9*(1 + Math.abs(a))) {
    if (fx < fy) { b = y; y = x; fy = fx; x = b - part*(b - a); fx = f(x); }
    else { a = x; x = y; fx = fy; y = a + part*(b - a); fy = f(y); }
  }
  return (a + b)/2;
}

// Gauss-Legendre nodes and weights on [a, b] by Newton's method.
function gaussLegendre(n, a, b) {
  const nodes = [], weights = [];
  for (const i of range(n)) {
    let x = Math.cos(Math.PI*(i + .75)/(n + .5)), slope;
    for (let step = 1; Math.abs(step) > 1e-15;) {
      let last = 1, p = x;
      for (let k = 2; k <= n; k++) [last, p] = [p, ((2*k - 1)*x*p - (k - 1)*last)/k];
      slope = n*(last - x*p)/(1 - x*x);
      step = p/slope;
      x -= step;
      if (Math.abs(step) < 1e-14) break;
    }
    nodes.push((a + b)/2 - (b - a)/2*x);
    weights.push((b - a)/((1 - x*x)*slope*slope));
  }
  return [nodes, weights];
}

// Repeatable uniform numbers in [0, 1) (mulberry32).
function random(seed) {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0)/4294967296;
  };
}

const SUPERSCRIPT = {"-": "⁻", ...Object.fromEntries([..."⁰¹²³⁴⁵⁶⁷⁸⁹"].map((c, i) => [i, c]))};

// A number for people: `digits` significant digits unless it is an integer, a real minus, powers of ten where it is very small or large.
function show(x, digits = 3) {
  if (Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (Number.isInteger(x) && Math.abs(x) < 1e6) return String(x).replace("-", "−");
  const [mantissa, power] = x.toExponential(digits - 1).split("e");
  const text = power > -5 && power < 6 ? x.toFixed(Math.max(0, digits - 1 - power))
    : `${mantissa}·10${[...String(Number(power))].map(c => SUPERSCRIPT[c]).join("")}`;
  return text.replace("-", "−");
}

// ---- elements

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(c => c !== undefined && c !== null && c !== false));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// ---- state: a control has a key and a value, and either a grid of numbers (a slider), `options` (a choice) or `parse` and `print` (set in a figure)

const MANTISSAS = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.2, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 9];

// The numbers that a slider without `values` can take: equal steps, or on a logarithmic one round numbers, and those in `include`.
function grid({min, max, step, log, include = []}) {
  if (!log) return range(Math.round((max - min)/step) + 1).map(i => Number((min + i*step).toPrecision(12)));
  const decades = range(Math.ceil(Math.log10(max)) - Math.floor(Math.log10(min)) + 1).map(i => Math.floor(Math.log10(min)) + i);
  return [...decades.flatMap(d => MANTISSAS.map(m => Number(`${m}e${d}`))), ...include].filter(x => x >= min && x <= max).sort((x, y) => x - y);
}

const nearest = (values, x) => values.reduce((best, v, i) => Math.abs(v - x) < Math.abs(values[best] - x) ? i : best, 0);
const defaults = controls => Object.fromEntries(controls.map(c => [c.key, c.value]));

// State to the part of the address after #; what has its default is left out.
function encode(state, controls) {
  const text = c => c.print ? c.print(state[c.key]) : String(state[c.key]);
  return controls.filter(c => text(c) !== (c.print ? c.print(c.value) : String(c.value))).map(c => `${c.key}=${encodeURIComponent(text(c))}`).join("&");
}

// And back; what is missing, unknown or malformed is ignored, and a number goes to the nearest place of its slider.
function decode(hash, controls) {
  const given = new URLSearchParams(hash), state = {};
  for (const c of controls.filter(c => given.has(c.key))) {
    const text = given.get(c.key);
    if (c.parse) { const value = c.parse(text); if (value !== undefined) state[c.key] = value; }
    else if (c.options) { if (text in c.options) state[c.key] = text; }
    else if (text.trim() !== "" && Number.isFinite(Number(text))) state[c.key] = c.grid[nearest(c.grid, Number(text))];
  }
  return state;
}

// ---- controls

// One labelled slider or choice; `update(value)` moves it without telling anybody.
function control(c, tell) {
  const id = `control-${c.key}`, hint = c.hint && el("span", {class: "hint", id: `${id}-hint`}, c.hint);
  const more = {id, name: c.key, "aria-describedby": c.hint ? `${id}-hint` : undefined};
  if (c.options) {
    const input = el("select", {...more, change: () => tell(input.value)}, Object.entries(c.options).map(([value, text]) => el("option", {value}, text)));
    return {node: el("div", {class: "control"}, el("label", {for: id}, c.label), input, hint), input, update: value => { input.value = value; }};
  }
  const input = el("input", {...more, type: "range", min: 0, max: c.grid.length - 1, step: 1, input: () => tell(c.grid[Number(input.value)])});
  const output = el("output", {for: id});
  const update = (value, digits) => {
    const text = (digits || String(value).length > 8 ? show(value, digits || 3) : String(value).replace("-", "−")) + (c.unit ? ` ${c.unit}` : "");
    input.value = nearest(c.grid, value);
    input.setAttribute("aria-valuetext", text);
    output.value = text;
  };
  return {node: el("div", {class: "control"}, el("label", {for: id}, c.label), output, input, hint), input, update};
}

// ---- axes

const NICE = [1, 2, 2.5, 5, 10];

// About n round numbers in an interval; on a logarithmic axis the powers of ten, with 2 and 5 between if there is room.
function ticks([a, b], n, log) {
  if (log) {
    const powers = range(Math.ceil(Math.log10(b)) - Math.floor(Math.log10(a)) + 1).map(i => 10**(Math.floor(Math.log10(a)) + i));
    const stride = Math.ceil(Math.log10(b/a)/n), digits = Math.log10(b/a) < n/2.5 ? [1, 2, 5] : [1];
    return powers.filter((_, i) => i % stride === 0).flatMap(p => digits.map(d => Number((d*p).toPrecision(3)))).filter(x => x >= a*(1 - 1e-9) && x <= b*(1 + 1e-9));
  }
  const rough = (b - a)/n, power = 10**Math.floor(Math.log10(rough)), step = power*NICE.find(x => x*power >= rough*(1 - 1e-9));
  return range(Math.floor(b/step + 1e-9) - Math.ceil(a/step - 1e-9) + 1).map(i => Number(((Math.ceil(a/step - 1e-9) + i)*step).toPrecision(12)));
}

const tickText = (x, log) => (log && (x < 1e-3 || x >= 1e5) ? show(x, 1).replace(/^1·/, "") : String(Number(x.toPrecision(6)))).replace("-", "−");

let clips = 0;

// A frame with ticks, and what can be drawn into it: X and Y map data to pixels; every mark is clipped to the frame.
function axes({width, height, x, y, left = 52, bottom = 42, top = 10, right = 12}) {
  const scale = ({domain: [a, b], log}, p, q) => { const f = log ? Math.log : v => v; return v => p + (q - p)*(f(v) - f(a))/(f(b) - f(a)); };
  const X = scale(x, left, width - right), Y = scale(y, height - bottom, top), clip = `clip-${++clips}`;
  const xs = x.ticks ?? ticks(x.domain, Math.max(3, (width - left)/75), x.log), ys = y.ticks ?? ticks(y.domain, Math.max(3, (height - bottom)/45), y.log);
  const text = (axis, v) => (axis.format ?? (t => tickText(t, axis.log)))(v);
  const frame = [
    svg("clipPath", {id: clip}, svg("rect", {x: left, y: top - 4, width: width - left - right, height: height - bottom - top + 8})),
    svg("g", {class: "axis"},
      ys.map(v => [svg("line", {class: "grid", x1: left, x2: width - right, y1: Y(v), y2: Y(v)}), svg("text", {x: left - 7, y: Y(v), dy: ".32em", "text-anchor": "end"}, text(y, v))]),
      xs.map(v => [svg("line", {x1: X(v), x2: X(v), y1: height - bottom, y2: height - bottom + 4}), svg("text", {x: X(v), y: height - bottom + 17, "text-anchor": "middle"}, text(x, v))]),
      svg("line", {x1: left, x2: width - right, y1: height - bottom, y2: height - bottom}),
      svg("text", {class: "label", x: (left + width - right)/2, y: height - 6, "text-anchor": "middle"}, x.label),
      svg("text", {class: "label", x: 0, y: 0, transform: `translate(13 ${(top + height - bottom)/2}) rotate(-90)`, "text-anchor": "middle"}, y.label))];
  const inside = (...nodes) => svg("g", {"clip-path": `url(#${clip})`}, ...nodes);
  const path = points => points.filter(([u, v]) => Number.isFinite(u) && Number.isFinite(v)).map(([u, v], i) => `${i ? "L" : "M"}${X(u).toFixed(2)} ${Y(v).toFixed(2)}`).join("");
  return {frame, X, Y, inside,
    line: (points, style) => inside(svg("path", {class: `line ${style}`, d: path(points)})),
    dots: (points, style, r = 3) => inside(points.map(([u, v]) => svg("circle", {class: `dot ${style}`, cx: X(u), cy: Y(v), r}))),
    bars: (points, style, w) => inside(points.map(([u, v]) => svg("rect", {class: `bar ${style}`, x: X(u) - w/2, width: w, y: Math.min(Y(v), Y(0)), height: Math.abs(Y(v) - Y(0))}))),
    across: (v, style) => inside(svg("line", {class: `rule ${style}`, x1: left, x2: width - right, y1: Y(v), y2: Y(v)})),
    upright: (u, style) => inside(svg("line", {class: `rule ${style}`, x1: X(u), x2: X(u), y1: top, y2: height - bottom})),
    note: (u, v, text, style = "", anchor = "start", dx = 6, dy = -6) => svg("text", {class: `note ${style}`, x: X(u) + dx, y: Y(v) + dy, "text-anchor": anchor}, text)};
}

// Makes a node of a figure draggable; `move` gets the pointer's place in pixels of the figure.
function draggable(node, move) {
  node.classList.add("handle");
  node.addEventListener("pointerdown", start => {
    const stage = node.ownerSVGElement, box = () => stage.getBoundingClientRect();
    start.preventDefault();
    stage.setPointerCapture(start.pointerId);
    const follow = e => move((e.clientX - box().left)*stage.viewBox.baseVal.width/box().width, (e.clientY - box().top)*stage.viewBox.baseVal.height/box().height);
    const stop = () => { stage.removeEventListener("pointermove", follow); stage.removeEventListener("pointerup", stop); stage.removeEventListener("pointercancel", stop); };
    stage.addEventListener("pointermove", follow);
    stage.addEventListener("pointerup", stop);
    stage.addEventListener("pointercancel", stop);
  });
  return node;
}

// ---- a page

// Builds a page into its <div data-interactive="NAME">:
// controls   see above; `group` names the fieldset, `disabled(state)` greys one out, `sets` is merged into the state when it is moved
// derive     state -> model, all numbers of the page
// follow     model -> {key: number}: sliders that show a number instead of setting it
// headline   (model, state) -> {badge, tone, text}: the answer in one sentence
// readouts   {columns, rows: [{key, label, unit, of: [model -> number, one a column]}]}
// figures    [{caption, legend, wide, handles, alt(model, state), height, draw({model, state, width, height, set}) -> nodes}]
// actions    [{label, act(state, model) -> changes of the state}]: buttons
function page(name, {controls, derive, follow = () => ({}), headline, readouts, figures, actions = []}) {
  const root = document.querySelector(`[data-interactive="${name}"]`);
  if (!root) return;
  for (const c of controls.filter(c => !c.options && !c.parse)) { c.grid = c.values ?? grid(c); c.value = c.grid[nearest(c.grid, c.value)]; }
  const state = {...defaults(controls), ...decode(location.hash.slice(1), controls)};
  let waiting = 0, saving = 0;

  const set = changes => { Object.assign(state, changes); root.setAttribute("aria-busy", "true"); waiting ||= requestAnimationFrame(draw); };
  const inputs = new Map(controls.filter(c => !c.parse).map(c => [c, control(c, value => set({[c.key]: value, ...c.sets}))]));
  const groups = [...new Set([...inputs.keys()].map(c => c.group ?? "Settings"))];
  const buttons = [...actions.map(({label, act}) => el("button", {type: "button", click: () => set(act(state, derive(state)))}, label)),
    el("button", {type: "button", click: () => set(defaults(controls))}, "Reset")];
  const badge = el("span", {class: "badge"}), sentence = el("span");
  const cells = readouts.rows.map(row => row.of.map((_, i) => el("data", {"data-key": row.of.length > 1 ? `${row.key}.${i}` : row.key})));
  const table = el("table", {class: "readouts"},
    readouts.columns && el("thead", {}, el("tr", {}, el("th"), readouts.columns.map(([text, style]) => el("th", {scope: "col", class: style}, text)), el("th"))),
    el("tbody", {}, readouts.rows.map((row, r) => el("tr", {}, el("th", {scope: "row"}, row.label), cells[r].map(c => el("td", {}, c)), el("td", {class: "unit"}, row.unit)))));
  const stages = figures.map(f => svg("svg", {role: f.handles ? "group" : "img", class: "plot"}));
  root.classList.add("interactive");
  const [first, ...others] = figures.map((f, i) => el("figure", {class: f.wide ? "wide" : ""},
    el("div", {class: "legend", "aria-hidden": "true"}, (f.legend ?? []).map(([style, text]) => el("span", {class: style}, text))), stages[i], el("figcaption", {}, f.caption)));
  root.replaceChildren(
    el("div", {class: "stage"},
      el("form", {class: "controls", "aria-label": "Controls", submit: e => e.preventDefault()},
        groups.map(g => el("fieldset", {}, el("legend", {}, g), [...inputs].filter(([c]) => (c.group ?? "Settings") === g).map(([, i]) => i.node))), el("div", {class: "buttons"}, buttons)),
      el("p", {class: "headline", role: "status"}, badge, sentence), first),
    el("div", {class: "more"}, others, table));

  function draw() {
    waiting = 0;
    const model = derive(state), shown = follow(model), {badge: word, tone, text} = headline(model, state), held = document.activeElement?.dataset?.handle;
    for (const [c, i] of inputs) {
      i.input.disabled = Boolean(c.disabled?.(state));
      i.node.classList.toggle("disabled", i.input.disabled);
      i.update(shown[c.key] ?? state[c.key], c.key in shown ? 3 : 0);
    }
    badge.textContent = word;
    badge.className = `badge ${tone}`;
    if (sentence.textContent !== text) sentence.textContent = text;
    readouts.rows.forEach((row, r) => row.of.forEach((of, i) => { cells[r][i].value = of(model); cells[r][i].textContent = show(of(model), row.digits); }));
    figures.forEach((f, i) => {
      const width = Math.max(260, stages[i].clientWidth || 520), height = typeof f.height === "function" ? f.height(width) : f.height;
      fill(stages[i], {viewBox: `0 0 ${width} ${height}`, height, "aria-label": f.alt(model, state)}, []);
      stages[i].replaceChildren(...[f.draw({model, state, width, height, set})].flat(Infinity).filter(Boolean));
    });
    if (held) root.querySelector(`[data-handle="${held}"]`)?.focus();
    clearTimeout(saving);
    saving = setTimeout(save, 150);
  }
  function save() {
    if (!waiting) root.removeAttribute("aria-busy");
    const hash = encode(state, controls), now = location.hash.slice(1);
    if (hash !== now && (hash || now.includes("="))) history.replaceState(null, "", `${location.pathname}${location.search}${hash && `#${hash}`}`);
  }
  addEventListener("hashchange", () => { if (location.hash.includes("=")) set({...defaults(controls), ...decode(location.hash.slice(1), controls)}); });
  let wide = root.clientWidth;
  new ResizeObserver(() => { if (root.clientWidth !== wide) { wide = root.clientWidth; set({}); } }).observe(root);
  draw();
}

return {range, sum, dot, linspace, geomspace, logSumExp, softmax, bisect, valley, gaussLegendre, random, show, el, svg, grid, encode, decode, ticks, axes, draggable, page};
})();
