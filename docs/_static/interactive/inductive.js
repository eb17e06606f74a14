// Chapter 50: the zero modes of the cube, those that a class of encoders implements, and the error of a head on k of them.
"use strict";

contrastive.inductive = (() => {
const {range, sum} = contrastive;

const choose = (d, k) => range(k).reduce((c, i) => c*(d - i)/(i + 1), 1);

// Eigenvalue of a spurious coordinate, which a view multiplies by U[low, 1]: its variance given the natural datum over its second moment.
const spuriousPsi = low => 1 - ((1 + low)/2)**2/((1 + low + low*low)/3);

// How many orthonormal functions a class has that no positive pair tells apart.
const zeroModes = (kind, d, s) => ({linear: s, relu: 2**s, all: 2**d})[kind];

// The k smallest implementable eigenvalues; the class of linear functions has d, and one layer of ReLU is known up to its zero modes.
function spectrum(kind, d, s, low, k) {
  if (kind === "linear") return range(Math.min(k, d)).map(i => i < s ? 0 : spuriousPsi(low));
  if (kind === "relu") return range(Math.min(k, 2**s)).map(() => 0);
  return range(k).map(i => i < 2**d ? 0 : 1);
}

// Variance that the loss leaves to a direction.
const kept = (psi, lambda) => Math.max(0, 1 - psi/lambda);

// Least loss in closed form; a coordinate that the class cannot use costs lambda.
function loss(kind, d, s, low, k, lambda) {
  if (kind === "relu" && k > 2**s) return NaN;
  const used = spectrum(kind, d, s, low, k);
  return lambda*(sum(used.map(psi => 1 - kept(psi, lambda)**2)) + k - used.length);
}

// Separability per dimension, phi_k / k.
function separability(kind, d, s, low, k) {
  const used = spectrum(kind, d, s, low, k);
  return used.length < k ? (kind === "relu" ? NaN : Infinity) : 2*sum(used)/k;
}

// Error of the best linear head: the mean over minimisers, and the worst of them.
function error(kind, d, s, k, label) {
  if (kind === "relu" && k > 2**s) return {mean: NaN, worst: NaN};
  if (kind === "linear" && label === "parity" && s > 1) return {mean: 1, worst: 1};
  const N = zeroModes(kind, d, s);
  return {mean: Math.max(0, 1 - k/N), worst: k < N ? 1 : 0};
}

// Zero modes of the cube that are a product of i invariant and j spurious bits, and how many of them a class implements.
const modes = (s, i, j, d) => choose(s, i)*choose(d - s, j);
const lit = (kind, s, i, j, d) => kind === "all" || kind === "relu" && j === 0 || kind === "linear" && j === 0 && i === 1 ? modes(s, i, j, d) : 0;

return {spuriousPsi, zeroModes, spectrum, kept, loss, separability, error, modes, lit};
})();

{
const {range, sum, geomspace, show, svg, axes, inductive} = contrastive;
const CLASSES = {linear: "linear functions", relu: "one layer of ReLU", all: "all functions"}, STYLES = {linear: "c1", relu: "c3", all: "c2"};
const STEPS = [...range(16).map(i => i + 1), 20, 24, 28, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];

function derive({kind, label, d, s: asked, low, k, lambda}) {
  const s = Math.min(asked, d - 1), psi = inductive.spectrum(kind, d, s, low, k);
  return {s, psi, spurious: inductive.spuriousPsi(low), needed: inductive.zeroModes(kind, d, s), error: inductive.error(kind, d, s, k, label), loss: inductive.loss(kind, d, s, low, k, lambda),
    phi: inductive.separability(kind, d, s, low, k), rank: psi.filter(p => inductive.kept(p, lambda) > 0).length};
}

contrastive.page("inductive", {
  controls: [
    {key: "kind", group: "Encoder", label: "class", options: CLASSES, value: "linear"},
    {key: "k", group: "Encoder", label: "dimension k", values: STEPS, value: 3},
    {key: "lambda", group: "Encoder", label: "weight λ of the orthogonality", min: .01, max: 10, log: true, value: 1},
    {key: "d", group: "Cube", label: "bits d", min: 2, max: 10, step: 1, value: 8},
    {key: "s", group: "Cube", label: "invariant bits s, below d", min: 1, max: 9, step: 1, value: 3},
    {key: "low", group: "Cube", label: "low, of jitter U[low, 1]", min: 0, max: .9, step: .1, value: .5},
    {key: "label", group: "Task", label: "label", options: {bit: "one invariant bit", parity: "parity of all invariant bits"}, value: "bit"}],
  derive,
  headline({needed, error: {mean, worst}}, {kind, k, label}) {
    const name = CLASSES[kind], only = label === "parity" && kind === "linear" && mean === 1;
    if (Number.isNaN(mean)) return {badge: "open", tone: "", text: `With ${k} coordinates one layer of ReLU has more of them than zero modes (${needed}); what its minimisers are then is an open question.`};
    return {badge: worst === 0 ? "every minimiser works" : only ? "no minimiser works" : "minimisers may fail", tone: worst === 0 ? "good" : "bad",
      text: worst === 0 ? `The class of ${name} has ${needed} zero mode${needed > 1 ? "s" : ""}; ${k} coordinates hold them all, and the error is 0.`
        : only ? "A linear head on linear functions of the bits does not see their parity, whatever k." : `The class of ${name} has ${needed} zero modes; of them a minimiser picks ${k}, any ${k}: the mean error is ${show(mean)}, and the worst 1.`};
  },
  readouts: {rows: [
    {key: "needed", label: "zero modes of the class: the k that suffices", unit: "", digits: 4, of: [m => m.needed]},
    {key: "mean", label: "error, mean over minimisers", unit: "", of: [m => m.error.mean]},
    {key: "worst", label: "error, worst minimiser", unit: "", of: [m => m.error.worst]},
    {key: "loss", label: "least loss", unit: "", of: [m => m.loss]},
    {key: "rank", label: "coordinates that the loss keeps", unit: "", digits: 4, of: [m => m.rank]},
    {key: "phi", label: "separability, φ_k/k", unit: "", of: [m => m.phi]},
    {key: "spurious", label: "eigenvalue ψ of a spurious coordinate", unit: "", of: [m => m.spurious]}]},
  figures: [{
    wide: true, height: (width) => Math.min(330, width*.75), legend: [["c1", "implemented"], ["c0", "out of reach"]],
    caption: "The zero modes of the cube, products of bits, by how many invariant and spurious bits they multiply. A tile says how many there are; the class implements those that are lit.",
    alt: ({s}, {kind, d}) => `Of ${2**d} zero modes ${CLASSES[kind]} implement ${sum(range(s + 1).flatMap(i => range(d - s + 1).map(j => inductive.lit(kind, s, i, j, d))))}.`,
    draw({model: {s}, state: {kind, d}, width, height}) {
      const left = 46, bottom = 44, w = Math.min(110, (width - left - 8)/(d - s + 1)), h = (height - bottom - 6)/(s + 1), y = i => 6 + (s - i)*h;
      const tile = (i, j) => {
        const n = inductive.modes(s, i, j, d), on = inductive.lit(kind, s, i, j, d) > 0;
        return [svg("rect", {class: on ? "cell c1" : "cell c0", "fill-opacity": on ? 1 : .13, x: left + j*w + 1, y: y(i) + 1, width: w - 2, height: h - 2, rx: 3}),
          svg("text", {class: on ? "on" : "", x: left + (j + .5)*w, y: y(i) + h/2, dy: ".35em", "text-anchor": "middle"}, n)];
      };
      return [range(s + 1).map(i => [range(d - s + 1).map(j => tile(i, j)), svg("text", {x: left - 8, y: y(i) + h/2, dy: ".35em", "text-anchor": "end"}, i)]), range(d - s + 1).map(j => svg("text", {x: left + (j + .5)*w, y: height - bottom + 18, "text-anchor": "middle"}, j)),
        svg("g", {class: "axis"}, svg("text", {class: "label", x: left + (d - s + 1)*w/2, y: height - 8, "text-anchor": "middle"}, "spurious bits"), svg("text", {class: "label", transform: `translate(13 ${(height - bottom)/2}) rotate(-90)`, "text-anchor": "middle"}, "invariant bits"))];
    }}, {
    height: 250, legend: [["c1", "zero mode"], ["c2", "spurious"], ["c0", "beyond k"]],
    caption: "Variance that the loss leaves to the implementable functions, in the order of their eigenvalues (at most 24): 1 − ψ/λ, or nothing.",
    alt: ({psi, rank}, {k}) => `Of ${k} coordinates ${rank} keep variance; ${psi.filter(p => p === 0).length} have eigenvalue 0.`,
    draw({model: {s}, state: {kind, d, low, k, lambda}, width, height}) {
      const all = inductive.spectrum(kind, d, s, low, Math.max(k, 24)).slice(0, 24), n = Math.max(8, all.length), w = Math.min(16, (width - 70)/n/1.4);
      const a = axes({width, height, x: {domain: [.3, n + .7], label: "function i", ticks: range(n).map(i => i + 1).filter(i => n < 12 || i % 4 === 0)}, y: {domain: [0, 1.05], label: "variance"}});
      const group = (test, style) => a.bars(all.map((psi, i) => [i + 1, inductive.kept(psi, lambda), psi]).filter(([i, , psi]) => test(i, psi)), style, w);
      return [a.frame, group((i, psi) => i <= k && psi === 0, "c1"), group((i, psi) => i <= k && psi > 0, "c2"), group(i => i > k, "c0 faint")];
    }}, {
    height: 250, legend: Object.entries(STYLES).map(([kind, style]) => [style, CLASSES[kind]]),
    caption: "Mean error over minimisers against k for the three classes; dashed, the worst minimiser of the chosen one.",
    alt: ({needed}, {kind}) => `Three falling curves; that of ${CLASSES[kind]} reaches zero at ${needed}.`,
    draw({model: {s, needed, error}, state: {kind, d, k, label}, width, height}) {
      const end = Math.max(2**d, k), a = axes({width, height, x: {domain: [.9, end*1.15], log: true, label: "dimension k", ticks: range(11).map(i => 2**i).filter((x, i) => x <= end && (d < 7 || i % 2 === 0))}, y: {domain: [-.03, 1.07], label: "error", ticks: [0, .25, .5, .75, 1]}});
      const curve = c => geomspace(1, c === "relu" ? 2**s : end, 61).map(x => [x, inductive.error(c, d, s, x*(1 - 1e-12), label).mean]);
      return [a.frame, Object.entries(STYLES).map(([c, style]) => a.line(curve(c), c === kind ? style : `${style} faint`)),
        a.line(label === "parity" && kind === "linear" && s > 1 ? [[1, 1], [end, 1]] : [[.9, 1], [needed, 1], [needed, 0], [kind === "relu" ? needed : end, 0]], `${STYLES[kind]} dash thin`), Number.isNaN(error.mean) ? 0 : a.dots([[k, error.mean]], STYLES[kind], 6)];
    }}]});
}
