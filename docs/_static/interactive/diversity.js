// Chapter 10: positives on the latent sphere, and the loss along the tilt h_lambda, by quadrature.
"use strict";

contrastive.diversity = (() => {
const {range, sum, dot, logSumExp, valley, gaussLegendre} = contrastive;

// log E exp(kappa x.y) for x uniform on S^{dim-1}: the series of 0F1(; dim/2; kappa^2/4), all terms positive.
function logMgf(kappa, dim) {
  let total = 1;
  for (let j = 1, term = 1; term > 1e-17*total; j++) { term *= kappa*kappa/4/(j*(dim/2 + j - 1)); total += term; }
  return Math.log(total);
}

// Mean cosine of a von Mises-Fisher law to its mean direction.
const meanResultant = (kappa, dim) => kappa/dim*Math.exp(logMgf(kappa, dim + 2) - logMgf(kappa, dim));

// Nodes for the lengths (|u|, |v|) of the two parts of a uniform point.
function sliceRule(dim, fixed, n) {
  const [phi, w] = gaussLegendre(n, 0, Math.PI/2), q = phi.map(Math.sin), r = phi.map(Math.cos);
  const raw = w.map((x, i) => x*q[i]**(fixed - 1)*r[i]**(dim - fixed - 1)), total = sum(raw);
  return [q, r, raw.map(x => x/total)];
}

// Lengths of the two parts of h_lambda(u, v) = (u, lambda v)/|(u, lambda v)|.
function tilt(lambda, q, r) {
  const size = Math.hypot(q, lambda*r);
  return [q/size, lambda*r/size];
}

// Concentration of a positive's direction inside a slice of radius r.
const sliceConcentration = (r, kappa, sampler) => sampler === "restricted" ? kappa*r*r : kappa;

// Alignment of the tilt for positives on slices.
function sliceAlignment(lambda, {kappa, fixed, sampler}, dim = 3, n = 48) {
  const [q, r, w] = sliceRule(dim, fixed, n);
  return sum(w.map((x, i) => {
    const [a, b] = tilt(lambda, q[i], r[i]);
    return x*(a*a + b*b*meanResultant(sliceConcentration(r[i], kappa, sampler), dim - fixed));
  }));
}

// Cosines of a vMF law on S^2 cut off at an angle: nodes and probabilities.
function capRule(kappa, angle, n = 32) {
  const [t, w] = gaussLegendre(n, Math.max(Math.cos(angle), 1 - 40/kappa), 1), raw = t.map((x, i) => w[i]*Math.exp(kappa*(x - 1))), total = sum(raw);
  return [t, raw.map(x => x/total)];
}

// Alignment of the tilt of the first coordinate for positives on a cap of S^2, or on all of it: over anchors, cosines to the anchor, and directions around it.
function capAlignment(lambda, {kappa, angle}, n = 48) {
  const [u, w] = gaussLegendre(n, 0, 1), [t, p] = capRule(kappa, angle*Math.PI/180), turns = range(24).map(i => Math.cos(Math.PI*(i + .5)/24)), h = s => 1/Math.sqrt(s*s + lambda*lambda*(1 - s*s));
  let total = 0;
  u.forEach((s, i) => t.forEach((c, j) => turns.forEach(x => {
    const r = Math.sqrt(1 - s*s), side = Math.sqrt(1 - c*c)*x, s2 = Math.max(-1, Math.min(1, c*s + side*r)), along = c*r - side*s; // the positive's first coordinate, and its part along v/|v|
    total += w[i]*p[j]/24*(s*s2 + lambda*lambda*r*along)*h(s)*h(s2);
  })));
  return total;
}

// log of the mean of e^{h.h'/tau} over negatives, averaged over anchors; a share rho of the negatives comes from the anchor's slice.
function uniformity(lambda, fixed, temperature, rho, dim = 3, n = 48) {
  const m = fixed || 1, [q, r, w] = sliceRule(dim, m, n), parts = q.map((x, i) => tilt(lambda, x, r[i]));
  const pair = ([a, b], [c, d]) => logMgf(a*c/temperature, m) + logMgf(b*d/temperature, dim - m);
  const table = parts.map(() => []);
  for (const i of range(n)) for (const j of range(i + 1)) table[i][j] = table[j][i] = pair(parts[i], parts[j]);
  const logG = parts.map(([a, b], i) => {
    const sphere = logSumExp(w.map((x, j) => Math.log(x) + table[i][j])), slice = a*a/temperature + logMgf(b*b/temperature, dim - m);
    return rho ? logSumExp([sphere + Math.log1p(-rho), slice + Math.log(rho)]) : sphere;
  });
  return dot(w, logG);
}

// The loss with infinitely many negatives, in its two halves.
function halves(lambda, law) {
  const A = law.fixed ? sliceAlignment(lambda, law) : capAlignment(lambda, law);
  return {A, U: uniformity(lambda, law.fixed, law.temperature, law.fixed ? law.rho : 0)};
}
function loss(lambda, law) {
  const {A, U} = halves(lambda, law);
  return U - A/law.temperature;
}

// Slope of the loss at the isometry for negatives from the sphere, in closed form.
function slope({kappa, fixed, sampler, temperature}, dim = 3) {
  const [q, r, w] = sliceRule(dim, fixed, 64);
  return 2/temperature*sum(w.map((x, i) => x*(q[i]*r[i])**2*(1 - meanResultant(sliceConcentration(r[i], kappa, sampler), dim - fixed))));
}

// The best tilt between 1/20 and 20; at an end of the interval the loss falls beyond it.
const bestTilt = law => Math.exp(valley(x => loss(Math.exp(x), law), -3, 3));

// Share of the latents that no positive of an anchor can reach: the mass of the witness.
const witnessMass = ({fixed, angle}) => fixed ? 1 : (1 + Math.cos(angle*Math.PI/180))/2;

return {logMgf, meanResultant, sliceRule, capRule, sliceAlignment, capAlignment, uniformity, halves, loss, slope, bestTilt, witnessMass};
})();

{
const {range, geomspace, random, show, svg, axes, diversity} = contrastive;
const DOTS = 350;

const lawOf = s => ({kappa: s.kappa, fixed: Number(s.fixed), sampler: s.sampler, angle: s.angle, temperature: s.temperature, rho: s.rho});

// What does not depend on lambda, kept until the law changes.
let kept = {};
function curve(law) {
  const key = JSON.stringify(law);
  if (kept.key !== key) kept = {key, points: geomspace(.2, 5, 41).map(x => [x, diversity.loss(x, law)]), best: diversity.bestTilt(law), isometry: diversity.loss(1, law)};
  return kept;
}

function derive(state) {
  const law = lawOf(state), {points, best, isometry} = curve(law), {A, U} = diversity.halves(state.lambda, law), mass = diversity.witnessMass(law);
  return {law, points, best, isometry, A, U, mass, loss: U - A/law.temperature, least: diversity.loss(best, law), slope: law.fixed && !law.rho ? diversity.slope(law) : 0, match: law.kappa*law.temperature};
}

// ---- the sphere, first coordinate upwards

const normal = v => { const n = Math.hypot(...v); return v.map(x => x/n); };
const cross = ([a, b, c], [x, y, z]) => [b*z - c*y, c*x - a*z, a*y - b*x];
const latitude = u => range(73).map(i => [u, Math.sqrt(1 - u*u)*Math.cos(i*Math.PI/36), Math.sqrt(1 - u*u)*Math.sin(i*Math.PI/36)]);
const meridian = angle => range(73).map(i => [Math.cos(i*Math.PI/36), Math.sin(i*Math.PI/36)*Math.cos(angle), Math.sin(i*Math.PI/36)*Math.sin(angle)]);
const tilted = (z, lambda, fixed) => normal(z.map((x, i) => i < (fixed || 1) ? x : lambda*x));

// A point at cosine t to the anchor, at a given turn around it.
function around(anchor, t, turn) {
  const e = normal(cross(anchor, Math.abs(anchor[0]) < .9 ? [1, 0, 0] : [0, 1, 0])), f = cross(anchor, e), s = Math.sqrt(Math.max(0, 1 - t*t));
  return anchor.map((a, i) => t*a + s*(Math.cos(turn)*e[i] + Math.sin(turn)*f[i]));
}

// Draws of the positive, the same ones whenever the setting is the same.
function positives(anchor, {kappa, fixed, sampler, angle}) {
  const next = random(7), [u, ...v] = [anchor[0], anchor[1], anchor[2]], r = Math.hypot(...v);
  if (!fixed) {
    const least = Math.exp(-kappa*(1 - Math.cos(angle*Math.PI/180)));
    return range(DOTS).map(() => around(anchor, 1 + Math.log(least + (1 - least)*next())/kappa, 2*Math.PI*next()));
  }
  if (fixed === 2) {
    const c = sampler === "restricted" ? kappa*anchor[2]**2 : kappa;
    return range(DOTS).map(() => [u, anchor[1], anchor[2]*(next() < 1/(1 + Math.exp(-2*c)) ? 1 : -1)]);
  }
  const c = sampler === "restricted" ? kappa*r*r : kappa, angles = range(2000).map(i => -Math.PI + 2*Math.PI*(i + .5)/2000), weight = angles.map(x => Math.exp(c*(Math.cos(x) - 1)));
  let total = 0;
  const steps = weight.map(w => (total += w)), start = Math.atan2(v[1], v[0]);
  return range(DOTS).map(() => { const p = next()*total, a = start + angles[steps.findIndex(s => s >= p)]; return [u, r*Math.cos(a), r*Math.sin(a)]; });
}

// A globe in a figure: lines and dots behind it are faint.
function globe(cx, cy, R, turn, title) {
  const [ct, st, cp, sp] = [Math.cos(turn), Math.sin(turn), Math.cos(.42), Math.sin(.42)];
  const place = ([u, x, y]) => { const [a, b] = [ct*x + st*y, ct*y - st*x]; return [cx + R*b, cy - R*(cp*u - sp*a), cp*a + sp*u]; };
  const line = (points, style) => {
    const runs = [];
    for (const [x, y, depth] of points.map(place)) {
      const last = runs[runs.length - 1], front = depth >= 0, text = `${x.toFixed(1)} ${y.toFixed(1)}`;
      if (last && last.front === front) last.d += `L${text}`; else { if (last) last.d += `L${text}`; runs.push({front, d: `M${text}`}); }
    }
    return runs.map(({front, d}) => svg("path", {class: `line ${style} ${front ? "" : "faint"}`, d}));
  };
  const dots = (points, style, r) => points.map(place).map(([x, y, depth]) => svg("circle", {class: `dot ${style} ${depth >= 0 ? "" : "faint"}`, cx: x.toFixed(1), cy: y.toFixed(1), r}));
  return {line, dots, frame: [svg("circle", {class: "line c0 thin", cx, cy, r: R}), svg("text", {x: cx, y: cy + R + 20, "text-anchor": "middle"}, title)]};
}

contrastive.page("diversity", {
  controls: [
    {key: "fixed", group: "Positives", label: "coordinates that never change", options: {0: "none", 1: "one of three", 2: "two of three"}, value: "1"},
    {key: "sampler", group: "Positives", label: "sampler on the slice", options: {restricted: "Eq. 6: concentration κr²", constant: "Algorithm 13: constant κ"}, value: "restricted", disabled: s => s.fixed === "0"},
    {key: "kappa", group: "Positives", label: "concentration κ", min: .5, max: 50, log: true, include: [10/3], value: 10/3},
    {key: "angle", group: "Positives", label: "cap angle", unit: "°", min: 10, max: 180, step: 5, value: 180, disabled: s => s.fixed !== "0"},
    {key: "lambda", group: "Loss", label: "tilt λ", min: .2, max: 5, log: true, value: 1},
    {key: "temperature", group: "Loss", label: "temperature τ", min: .1, max: 1, log: true, value: .3},
    {key: "rho", group: "Loss", label: "negatives from the slice ρ", min: 0, max: 1, step: .05, value: 0, disabled: s => s.fixed === "0"},
    {key: "height", group: "View", label: "anchor’s first coordinate", min: -.9, max: .9, step: .1, value: .3},
    {key: "turn", group: "View", label: "turn of the globe", unit: "°", min: -180, max: 180, step: 5, value: 20}],
  derive,
  headline({mass, law, best, isometry, least}) {
    const gain = isometry - least, end = best > 19 || best < .052, near = Math.abs(best - 1) < 2e-3;
    return {badge: mass ? "diversity fails" : "diversity holds", tone: mass ? "bad" : "good",
      text: (mass ? `${mass === 1 ? "Almost all" : `${show(100*mass)} %`} of the latents can never be a positive of this anchor. ` : "Every set of latents that has mass can be reached. ")
        + (near ? "Along the tilt the isometry, λ = 1, is the best map." : end ? `Along the tilt the loss falls all the way to λ = ${best > 1 ? "∞" : "0"}: part of the latent is thrown away.`
          : `The isometry is not the best map: λ = ${show(best)} is better by ${show(gain)} nats.`)};
  },
  readouts: {rows: [
    {key: "mass", label: "latents out of reach of the anchor", unit: "%", of: [m => 100*m.mass]},
    {key: "match", label: "κτ", unit: "", of: [m => m.match]},
    {key: "A", label: "alignment A of h_λ", unit: "", digits: 5, of: [m => m.A]},
    {key: "U", label: "uniformity U of h_λ", unit: "nats", digits: 5, of: [m => m.U]},
    {key: "loss", label: "loss of h_λ, without log M", unit: "nats", digits: 5, of: [m => m.loss]},
    {key: "isometry", label: "loss of the isometry", unit: "nats", digits: 5, of: [m => m.isometry]},
    {key: "best", label: "best λ between 0.05 and 20", unit: "", of: [m => m.best]},
    {key: "least", label: "its loss", unit: "nats", digits: 5, of: [m => m.least]}]},
  figures: [{
    wide: true, height: width => width > 560 ? 330 : width/2 + 40, legend: [["c2", "anchor"], ["c1", "positives"], ["c3", "reach of the anchor"]],
    caption: "Left, latents: an anchor and 350 draws of its positive. Right, their codes under the tilt; the grid shows where the latents go. The first coordinate points upwards, and what is behind the globe is faint.",
    alt: ({mass, law}) => `Two globes with an anchor and its positives, ${law.fixed ? `on a slice with ${law.fixed} fixed` : "on a cap"}; ${show(100*mass)} per cent of the sphere is out of reach.`,
    draw({model: {law}, state: {lambda, height: u, turn}, width, height}) {
      const R = Math.min(width/4 - 8, height/2 - 24), anchor = [u, Math.sqrt(1 - u*u)*.6, Math.sqrt(1 - u*u)*.8], found = positives(anchor, law), h = z => tilted(z, lambda, law.fixed), edge = [];
      if (law.fixed === 1) edge.push(latitude(u));
      if (!law.fixed && law.angle < 180) edge.push(range(73).map(i => around(anchor, Math.cos(law.angle*Math.PI/180), i*Math.PI/36)));
      const panel = (cx, title, map) => {
        const g = globe(cx, R + 4, R, turn*Math.PI/180, title), lines = [...range(9).map(i => latitude(-.8 + .2*i)), ...range(6).map(i => meridian(i*Math.PI/6))];
        return [g.frame, lines.map(l => g.line(l.map(map), "c0 thin faint")), edge.map(l => g.line(l.map(map), "c3")), g.dots(found.map(map), "c1", 2), g.dots([map(anchor)], "c2", 5)];
      };
      return [panel(width/4, "latents z", z => z), panel(3*width/4, `codes h(z), λ = ${show(lambda)}`, h)];
    }}, {
    wide: true, height: 270, legend: [["c1", "loss of h_λ"], ["c0", "tangent at the isometry"], ["c3", "best λ"]],
    caption: "Loss over that of the isometry, along the tilt. λ < 1 shrinks what varies, λ > 1 shrinks what is kept fixed.",
    alt: ({best, isometry, least}) => `The curve has its least value ${show(least - isometry)} at lambda ${show(best)}.`,
    draw({model: {points, best, least, isometry, slope, loss, law}, state: {lambda}, width, height}) {
      const rest = points.map(([x, y]) => [x, y - isometry]), low = Math.min(...rest.map(p => p[1])), top = Math.min(Math.max(...rest.map(p => p[1])), Math.max(.3, -4*low)), pad = .08*(top - low);
      const a = axes({width, height, left: 60, x: {domain: [.2, 5], log: true, label: "tilt λ"}, y: {domain: [low - pad, top + pad], label: "loss over the isometry (nats)"}});
      return [a.frame, a.across(0, "c0"), slope ? a.line([.5, 1.5].map(x => [x, slope*(x - 1)]), "c0 dash") : 0, a.line(rest, "c1"), best > .2 && best < 5 ? [a.upright(best, "c3 dash"), a.dots([[best, least - isometry]], "c3", 5)] : 0, a.dots([[lambda, loss - isometry]], "c1", 6)];
    }}]});
}
