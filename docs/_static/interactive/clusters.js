// Chapter 40: laws of codes on the cube {-1, 1}^d, and their InfoNCE loss with finitely many negatives, exactly, by one integral.
"use strict";

contrastive.clusters = (() => {
const {range, sum, bisect} = contrastive;

const choose = (d, k) => range(k).reduce((c, i) => c*(d - i)/(i + 1), 1);

const binomial = d => range(d + 1).map(k => choose(d, k)/2**d);
const convolve = (p, q) => range(p.length + q.length - 1).map(k => sum(range(p.length).map(i => p[i]*(q[k - i] ?? 0))));

// The half of the cube where the product of `order` chosen bits is 1; order 1 is a face, order d the even half cube.
const halfCube = (d, order) => convolve(binomial(order).map((p, k) => k % 2 ? 0 : 2*p), binomial(d - order));

// Law of the Hamming distance 0..d between the codes of an anchor and of a negative, for codes that are uniform on ...
const LAWS = {
  cube: binomial, // all vertices
  half: d => halfCube(d, d), // the vertices with an even number of ones
  face: d => halfCube(d, 1), // a face: one bit says nothing
  pair: d => range(d + 1).map(k => k === 0 || k === d ? .5 : 0), // two opposite vertices
  point: d => range(d + 1).map(k => k ? 0 : 1)}; // one vertex: collapse

// E log(1 + X_1 + ... + X_l) for independent X = e^{-2 beta distance}: the integral over t of e^{-s}(1 - phi(s)^l), s = e^t, phi(s) = E e^{-sX}; the trapezoid rule converges geometrically.
function expectedLog(law, beta, negatives) {
  const weight = law.map((p, k) => [p, Math.exp(-2*beta*k)]).filter(([p]) => p > 0), h = .1;
  let total = 0;
  for (let t = -38 - Math.log(negatives); t < 4; t += h) {
    const s = Math.exp(t), missing = weight.reduce((a, [p, x]) => a - p*Math.expm1(-s*x), 0); // 1 - phi
    total -= Math.exp(-s)*Math.expm1(negatives*Math.log1p(-Math.min(missing, 1)));
  }
  return total*h;
}

// InfoNCE of codes that the two views share: the alignment term is at its best, and the logit of the positive is subtracted.
const loss = (name, d, beta, negatives) => expectedLog(LAWS[name](d), beta, negatives);

// The loss on the line from the cube (t = 0) to its even half (t = 1): a vertex has probability (1 + t parity)/2^d.
function tilted(t, d, beta, negatives) {
  const side = parity => expectedLog(LAWS.cube(d).map((p, k) => p*(1 + t*parity*(k % 2 ? -1 : 1))), beta, negatives);
  return (1 + t)/2*side(1) + (t < 1 ? (1 - t)/2*side(-1) : 0);
}

// What the half cube of an order costs over the cube; negative where it wins.
const gap = (d, beta, negatives, order = d) => expectedLog(halfCube(d, order), beta, negatives) - loss("cube", d, beta, negatives);

// The inverse temperature from which on the cube beats its even half; 0 where it does for all those above 0.1.
function threshold(d, negatives) {
  const grid = range(60).map(i => 3*(.1/3)**(i/59)), below = grid.find(beta => gap(d, beta, negatives) < -1e-13);
  return below === undefined ? 0 : bisect(beta => gap(d, beta, negatives), below, below*1.07);
}

return {LAWS, halfCube, expectedLog, loss, tilted, gap, threshold};
})();

{
const {range, linspace, geomspace, show, svg, axes, clusters} = contrastive;
const NAMES = {cube: "all vertices: the cube", half: "every second vertex: the even half cube", face: "a face: one bit is lost", pair: "two opposite vertices", point: "one vertex: collapse"};
const COUNTS = range(11).map(i => 2**i);

// The threshold for each number of negatives, kept until the dimension changes.
let kept = {};
const thresholds = d => (kept.d === d ? kept : (kept = {d, points: COUNTS.map(l => [l, clusters.threshold(d, l)])})).points;

function derive({d, beta, negatives}) {
  const losses = Object.fromEntries(Object.keys(NAMES).map(name => [name, clusters.loss(name, d, beta, negatives)]));
  const gaps = range(d).map(k => clusters.gap(d, beta, negatives, k + 1)), order = 1 + gaps.indexOf(Math.min(...gaps));
  return {losses, gaps, order, least: gaps[order - 1], cube: gaps[order - 1] > -1e-14, threshold: clusters.threshold(d, negatives), chance: Math.log(negatives + 1)};
}

contrastive.page("clusters", {
  controls: [
    {key: "d", group: "Codes", label: "bits d", min: 2, max: 12, step: 1, value: 5},
    {key: "beta", label: "inverse temperature β", min: .1, max: 3, log: true, value: .4, group: "Loss"},
    {key: "negatives", label: "negatives ℓ", values: COUNTS, value: 1, group: "Loss"}],
  derive,
  headline({cube, order, least, threshold}, {d, negatives}) {
    const half = order === d ? "the even half cube" : order === 1 ? "a face" : `the half cube of order ${order}`, bits = `With ${d} bits and ${negatives} negative${negatives > 1 ? "s" : ""} the cube beats its even half`;
    return {badge: cube ? "the cube wins" : "half of the cube wins", tone: cube ? "good" : "bad",
      text: `${cube ? `The next best, ${half}, is behind` : `Its best half, ${half}, is ahead of the cube`} by ${show(Math.abs(least))} nats. ${bits} ${threshold ? `for good from β = ${show(threshold)} on.` : "at every β above 0.1."}`};
  },
  readouts: {
    columns: [["loss", ""], ["over the cube", ""]],
    rows: [...Object.entries(NAMES).map(([name, label]) => ({key: name, label, unit: "nats", digits: 5, of: [m => m.losses[name], m => m.losses[name] - m.losses.cube]})),
      {key: "least", label: "the best half cube", unit: "nats", digits: 5, of: [m => m.losses.cube + m.least, m => m.least]},
      {key: "chance", label: "chance, log(ℓ + 1)", unit: "nats", digits: 5, of: [m => m.chance, m => m.chance - m.losses.cube]},
      {key: "order", label: "its order", unit: "", digits: 1, of: [m => m.order]},
      {key: "threshold", label: "the cube beats its even half from β =", unit: "", digits: 4, of: [m => m.threshold]}]},
  figures: [{
    wide: true, height: 270, legend: [["c1", "even half cube less cube"], ["c3", "threshold"], ["c0", "equal"]],
    caption: "What it costs to leave half of the vertices empty. Below zero the loss prefers that, and puts two clusters on each vertex it uses.",
    alt: ({threshold}, {beta}) => `Loss of the even half cube less that of the cube against inverse temperature; it ${threshold ? `changes sign at ${show(threshold)}` : "is positive throughout"}.`,
    draw({model: {losses, threshold}, state: {d, beta, negatives}, width, height}) {
      const points = geomspace(.1, 3, 61).map(b => [b, clusters.gap(d, b, negatives)]), here = losses.half - losses.cube, low = Math.min(here, ...points.map(p => p[1]));
      const top = low < -1e-9 ? Math.max(-1.6*low, 1.15*here) : 1.1*Math.max(here, points[40][1]);
      const a = axes({width, height, left: 78, x: {domain: [.1, 3], log: true, label: "inverse temperature β"}, y: {domain: [Math.min(1.25*low, -.06*top), top], label: "nats", format: v => show(v, 2)}});
      return [a.frame, a.across(0, "c0 dash"), threshold ? a.upright(threshold, "c3 dash") : 0, a.line(points, "c1"), a.dots([[beta, here]], "c1", 6)];
    }}, {
    height: 240, legend: [["c1", "loss over the cube"]],
    caption: "The line from one half (t = −1) over the cube (0) to the other half (1).",
    alt: () => "Loss along the line from one half cube over the cube to the other; a valley at 0 where the cube wins, a hill where it loses.",
    draw({state: {d, beta, negatives}, width, height}) {
      const side = linspace(0, 1, 13).map(t => [t, clusters.tilted(t, d, beta, negatives)]), base = side[0][1], rest = side.map(([t, y]) => [t, y - base]), points = [...rest.slice(1).reverse().map(([t, y]) => [-t, y]), ...rest];
      const low = Math.min(...rest.map(p => p[1])), top = Math.max(...rest.map(p => p[1])), pad = .12*(top - low);
      const a = axes({width, height, left: 78, x: {domain: [-1.06, 1.06], label: "parity tilt t", ticks: [-1, -.5, 0, .5, 1]}, y: {domain: [low - pad, top + pad], label: "nats", format: v => show(v, 2)}});
      return [a.frame, a.line(points, "c1"), a.dots([[-1, points[0][1]], [0, 0], [1, points[0][1]]], "c1", 4)];
    }}, {
    height: 240, legend: [["c1", "the cube wins"], ["c2", "the half cube wins"]],
    caption: "By how much, for each half cube: the product of k chosen bits is 1. Order 1 is a face, order d the even half.",
    alt: ({gaps}) => `Excess of the half cubes over the cube by order: ${gaps.map(g => show(g, 2)).join(", ")} nats.`,
    draw({model: {gaps}, state: {d}, width, height}) {
      const sizes = gaps.map(g => Math.max(Math.abs(g), 1e-15)), low = 10**Math.floor(Math.log10(Math.min(...sizes)) - .2), top = 10**Math.ceil(Math.log10(Math.max(...sizes)) + .05);
      const a = axes({width, height, left: 60, x: {domain: [.4, d + .6], label: "order k", ticks: range(d).map(i => i + 1)}, y: {domain: [low, top], log: true, label: "nats"}}), w = Math.min(18, (width - 72)/d/1.6);
      return [a.frame, a.inside(gaps.map((g, i) => svg("rect", {class: `bar ${g < 0 ? "c2" : "c1"}`, x: a.X(i + 1) - w/2, width: w, y: a.Y(sizes[i]), height: a.Y(low) - a.Y(sizes[i])})))];
    }}, {
    wide: true, height: 230, legend: [["c3", "threshold"], ["c1", "here"]],
    caption: "The inverse temperature from which on the cube beats its even half, against the number of negatives; at the bottom where it always does. Just below the line the even half wins.",
    alt: ({}, {d}) => `Threshold against the number of negatives for ${d} bits: ${thresholds(d).map(([l, b]) => `${l}: ${show(b, 2)}`).join(", ")}.`,
    draw({state: {d, beta, negatives}, width, height}) {
      const points = thresholds(d), top = Math.max(.5, 1.15*Math.max(beta, ...points.map(p => p[1])));
      const a = axes({width, height, x: {domain: [.8, 1280], log: true, label: "negatives ℓ", ticks: COUNTS.filter((_, i) => width > 500 || i % 2 === 0)}, y: {domain: [0, top], label: "β"}});
      return [a.frame, a.line(points, "c3"), a.dots(points, "c3", 3.5), a.dots([[negatives, beta]], "c1", 6)];
    }}]});
}
