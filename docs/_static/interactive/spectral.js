// Chapter 30: the graph of the data, the graph of an embedding in the plane, and the cross-entropy between their random sub-graphs.
"use strict";

contrastive.spectral = (() => {
const {range, sum, logSumExp, softmax, random} = contrastive;

// Blocks of nodes with weight 1 inside a block and `across` between two; no node is its own positive.
const blockGraph = (blocks, size, across) => range(blocks*size).map(i => range(blocks*size).map(j => i === j ? 0 : Math.floor(i/size) === Math.floor(j/size) ? 1 : across));

// Rows that sum to one.
const transition = graph => graph.map(row => { const total = sum(row); return row.map(w => w/total); });

const squaredDistance = (a, b) => (a[0] - b[0])**2 + (a[1] - b[1])**2;

// Gaussian log-kernel; a node is no candidate of its own.
const logKernel = (Z, temperature) => Z.map((a, i) => Z.map((b, j) => i === j ? -Infinity : -squaredDistance(a, b)/(2*temperature)));

// The law of the embedding's random sub-graph.
const embeddingLaw = (Z, temperature) => logKernel(Z, temperature).map(softmax);

// Cross-entropy of two laws with independent rows, and of a law with itself its entropy.
const crossEntropy = (P, logQ) => -sum(P.map((row, i) => sum(row.map((p, j) => p ? p*logQ[i][j] : 0))));
const entropy = P => crossEntropy(P, P.map(row => row.map(Math.log)));
const logRows = S => S.map(row => { const total = logSumExp(row); return row.map(s => s - total); });

// The two terms of the trace form; the Laplacian is that of (P + P')/2.
function attractionAndRepulsion(P, Z, temperature) {
  const pull = sum(P.map((row, i) => sum(row.map((p, j) => (p + P[j][i])/2*squaredDistance(Z[i], Z[j])))))/(2*temperature);
  return {attraction: pull, repulsion: sum(logKernel(Z, temperature).map(logSumExp))};
}

// Gradient of the cross-entropy: along every edge, by how much the two laws differ there.
function gradient(P, Z, temperature) {
  const Q = embeddingLaw(Z, temperature);
  return Z.map((a, i) => [0, 1].map(c => sum(Z.map((b, j) => (P[i][j] + P[j][i] - Q[i][j] - Q[j][i])*(a[c] - b[c])))/temperature));
}

// Gradient descent that halves its step until the loss falls.
function descend(P, Z, temperature, steps) {
  const loss = Y => crossEntropy(P, logRows(logKernel(Y, temperature)));
  for (let k = 0, rate = temperature; k < steps; k++, rate *= 2) {
    const g = gradient(P, Z, temperature), move = r => Z.map((z, i) => z.map((x, c) => x - r*g[i][c]));
    while (rate > 1e-9 && !(loss(move(rate)) < loss(Z))) rate /= 2;
    if (rate > 1e-9) Z = move(rate);
  }
  return Z;
}

// A repeatable start.
function scatter(n, scale, seed) {
  const next = random(seed);
  return range(n).map(() => [0, 1].map(() => Number(((2*next() - 1)*scale).toFixed(2))));
}

function derive({blocks, across, temperature, points, anchor}) {
  const n = 3*blocks, Z = points.slice(0, n), i = Math.min(anchor, n) - 1, P = transition(blockGraph(Number(blocks), 3, across)), Q = embeddingLaw(Z, temperature), H = crossEntropy(P, logRows(logKernel(Z, temperature))), E = entropy(P);
  const logQ = logRows(logKernel(Z, temperature))[i], rowGap = sum(P[i].map((p, j) => p ? p*(Math.log(p) - logQ[j]) : 0));
  return {n, Z, anchor: i, P, Q, crossEntropy: H, entropy: E, excess: H - E, rowGap, ...attractionAndRepulsion(P, Z, temperature)};
}

return {blockGraph, transition, logKernel, embeddingLaw, crossEntropy, entropy, attractionAndRepulsion, gradient, descend, scatter, derive};
})();

{
const {range, sum, show, svg, axes, draggable, spectral} = contrastive;
const N = 12, SIDE = 2.5, STYLE = i => `c${1 + Math.floor(i/3)}`;
const clamp = x => Math.max(-SIDE, Math.min(SIDE, Number(x.toFixed(3))));
const tidy = Z => Z.map(z => z.map(clamp));

// "x,y;x,y;..." and back.
const print = Z => Z.map(z => z.join(",")).join(";");
function parse(text) {
  const Z = text.split(";").map(z => z.split(",").map(Number));
  return Z.length === N && Z.every(z => z.length === 2 && z.every(Number.isFinite)) ? tidy(Z) : undefined;
}

const descended = ({points, temperature}, {P, Z, n}, steps) => ({points: [...tidy(spectral.descend(P, Z, temperature, steps)), ...points.slice(n)]});

// A matrix of probabilities as shaded squares, with a frame around one row.
function heatmap(M, x0, y0, size, style, title, row) {
  const c = size/M.length;
  return [svg("text", {x: x0 + size/2, y: y0 - 8, "text-anchor": "middle"}, title),
    M.map((r, i) => r.map((p, j) => svg("rect", {class: `cell ${style}`, x: x0 + j*c, y: y0 + i*c, width: c - 1, height: c - 1, "fill-opacity": (.04 + .96*Math.sqrt(p)).toFixed(3)}))),
    svg("rect", {class: "line c0", x: x0 - 1, y: y0 + row*c - 1, width: size + 1, height: c + 1})];
}

contrastive.page("spectral", {
  controls: [
    {key: "blocks", group: "Graph of the data", label: "blocks of three", options: {3: "three", 4: "four"}, value: "3"},
    {key: "across", group: "Graph of the data", label: "weight between blocks", min: .001, max: 1, log: true, value: .05},
    {key: "temperature", group: "Graph of the embedding", label: "temperature τ", min: .05, max: 5, log: true, value: .5},
    {key: "anchor", group: "Shown", label: "anchor", min: 1, max: N, step: 1, value: 1},
    {key: "points", value: spectral.scatter(N, 1.2, 4), parse, print}],
  derive: spectral.derive,
  headline: ({crossEntropy, entropy, excess}) => ({badge: `${show(excess)} nats to go`, tone: excess < .05 ? "good" : "",
    text: `The embedding’s cross-entropy is ${show(crossEntropy, 4)} nats; no embedding gets below ${show(entropy, 4)}, the entropy of the data’s own sub-graph.`}),
  readouts: {rows: [
    {key: "attraction", label: "attraction, tr ZᵀLZ/τ", unit: "nats", digits: 5, of: [m => m.attraction]},
    {key: "repulsion", label: "repulsion, log R", unit: "nats", digits: 5, of: [m => m.repulsion]},
    {key: "sum", label: "their sum", unit: "nats", digits: 5, of: [m => m.attraction + m.repulsion]},
    {key: "crossEntropy", label: "cross-entropy of the two laws, InfoNCE over all anchors", unit: "nats", digits: 5, of: [m => m.crossEntropy]},
    {key: "entropy", label: "entropy of the data’s law", unit: "nats", digits: 5, of: [m => m.entropy]},
    {key: "excess", label: "divergence of the laws", unit: "nats", of: [m => m.excess]},
    {key: "rowGap", label: "of that at the anchor", unit: "nats", of: [m => m.rowGap]}]},
  actions: [
    {label: "One step of descent", act: (s, m) => descended(s, m, 1)},
    {label: "Fifty steps", act: (s, m) => descended(s, m, 50)},
    {label: "Collapse", act: () => ({points: spectral.scatter(N, .02, 4)})}],
  figures: [{
    wide: true, height: 340, handles: true, legend: [["c1", "block 1"], ["c2", "block 2"], ["c3", "block 3"], ["c4", "block 4"]],
    caption: "The embedding. Drag a point, or reach it with Tab and move it with the arrow keys (Shift for larger steps). Grey: edges of the data; from the anchor, in colour: the embedding’s law.",
    alt: ({Z}) => `Points in the plane: ${Z.map((z, i) => `${i + 1} at ${z.map(x => x.toFixed(2)).join(", ")}`).join("; ")}.`,
    draw({model: {n, Z, anchor, P, Q}, state: {points}, width, height, set}) {
      const ratio = (width - 64)/(height - 52), a = axes({width, height, x: {domain: [-SIDE*ratio, SIDE*ratio], label: "first coordinate"}, y: {domain: [-SIDE*1.05, SIDE*1.05], label: "second coordinate"}});
      const unit = a.X(1) - a.X(0), back = (px, py) => [(px - a.X(0))/unit, (a.Y(0) - py)/(a.Y(0) - a.Y(1))].map(clamp), move = (i, z) => set({points: points.map((y, j) => j === i ? z : y), anchor: i + 1});
      const edge = (i, j, w, style, opacity) => svg("line", {class: `line ${style}`, x1: a.X(Z[i][0]), y1: a.Y(Z[i][1]), x2: a.X(Z[j][0]), y2: a.Y(Z[j][1]), style: `stroke-width:${w};opacity:${opacity}`});
      const keys = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
      const node = i => draggable(svg("g", {tabindex: 0, role: "button", "data-handle": `point-${i}`, transform: `translate(${a.X(Z[i][0])} ${a.Y(Z[i][1])})`,
        "aria-label": `node ${i + 1} of block ${1 + Math.floor(i/3)}, at ${Z[i].map(x => x.toFixed(2)).join(", ")}; arrow keys move it`,
        keydown: e => { if (keys[e.key]) { e.preventDefault(); move(i, Z[i].map((x, c) => clamp(x + keys[e.key][c]*(e.shiftKey ? .25 : .05)))); } }},
        svg("circle", {class: `dot ${STYLE(i)}`, r: i === anchor ? 13 : 10}), svg("text", {class: "on", "text-anchor": "middle", dy: ".35em"}, i + 1)), (px, py) => move(i, back(px, py)));
      return [a.frame, range(n).flatMap(i => range(i).map(j => edge(i, j, 1.2, "c0", (.75*Math.sqrt((P[i][j] + P[j][i])/2)).toFixed(3)))),
        range(n).filter(j => j !== anchor).map(j => edge(anchor, j, (9*Q[anchor][j]).toFixed(2), STYLE(anchor), .55)), range(n).map(node)];
    }}, {
    height: 250, legend: [["c4", "attraction"], ["c5", "repulsion"], ["c1", "cross-entropy"]],
    caption: "Attraction and repulsion add up to the cross-entropy; dashed, the entropy of the data’s law.",
    alt: ({attraction, repulsion, crossEntropy}) => `A waterfall: attraction ${show(attraction)}, repulsion ${show(repulsion)}, cross-entropy ${show(crossEntropy)} nats.`,
    draw({model: {attraction: A, repulsion: R, crossEntropy: H, entropy: E}, width, height}) {
      const top = 1.1*Math.max(A, H, E), low = Math.min(0, 1.1*(A + R)), a = axes({width, height, x: {domain: [0, 3], label: "", ticks: [.5, 1.5, 2.5], format: v => ["attraction", "repulsion", "sum"][Math.floor(v)]}, y: {domain: [low, top], label: "nats"}});
      const block = (u, from, to, style) => svg("rect", {class: `bar ${style}`, x: a.X(u + .22), width: a.X(.56) - a.X(0), y: a.Y(Math.max(from, to)), height: Math.max(1, Math.abs(a.Y(from) - a.Y(to)))});
      return [a.frame, a.inside(block(0, 0, A, "c4"), block(1, A, A + R, "c5"), block(2, 0, H, "c1")), a.across(E, "c0 dash")];
    }}, {
    height: 250, legend: [["c0", "data P"], ["c1", "embedding Q"]],
    caption: "The two laws of the anchor’s edge: whom it would draw as its positive.",
    alt: ({P, Q, anchor}) => `Row ${anchor + 1} of the two laws: data ${P[anchor].map(p => show(p, 2)).join(", ")}; embedding ${Q[anchor].map(p => show(p, 2)).join(", ")}.`,
    draw({model: {n, anchor, P, Q}, width, height}) {
      const rows = [P[anchor], Q[anchor]], a = axes({width, height, x: {domain: [.4, n + .6], label: "node", ticks: range(n).map(i => i + 1)}, y: {domain: [0, Math.min(1, 1.1*Math.max(...rows.flat()))], label: "probability"}}), w = Math.min(12, width/n/3), shift = w/2/(a.X(1) - a.X(0));
      return [a.frame, a.bars(rows[0].map((p, j) => [j + 1 - shift, p]), "c0", w), a.bars(rows[1].map((p, j) => [j + 1 + shift, p]), "c1", w)];
    }}, {
    wide: true, height: width => Math.min(250, width/2 - 10) + 34,
    caption: "The laws of the random sub-graphs, one row an anchor: the stronger the colour, the likelier the edge.",
    alt: () => "Two matrices of probabilities, the data's with blocks on the diagonal, and the embedding's.",
    draw({model: {anchor, P, Q}, width}) {
      const size = Math.min(250, width/2 - 24);
      return [heatmap(P, width/4 - size/2, 26, size, "c0", "graph of the data, P", anchor), heatmap(Q, 3*width/4 - size/2, 26, size, "c1", "graph of the embedding, Q", anchor)];
    }}]});
}
