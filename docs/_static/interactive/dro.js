// Chapters 20 and 22: one anchor, its negatives, and the law that the gradient pushes against.
"use strict";

contrastive.dro = (() => {
const {range, sum, softmax, bisect} = contrastive;

// Quantile function of the normal law, relative error below 1.2e-9 (Acklam's rational approximation).
function normalQuantile(p) {
  const a = [-3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02, 1.383577518672690e+02, -3.066479806614716e+01, 2.506628277459239e+00];
  const b = [-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02, 6.680131188771972e+01, -1.328068155288572e+01, 1];
  const c = [-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00, -2.549732539343734e+00, 4.374664141464968e+00, 2.938163982698783e+00];
  const d = [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661742698e+00, 1];
  const poly = (w, x) => w.reduce((total, v) => total*x + v, 0);
  if (p > .5) return -normalQuantile(1 - p);
  if (p < .02425) { const q = Math.sqrt(-2*Math.log(p)); return poly(c, q)/poly(d, q); }
  return (p - .5)*poly(a, (p - .5)**2)/poly(b, (p - .5)**2);
}

// Cosines of a batch: `negatives` quantiles of a normal law around 0, kept inside [-.999, .999], and the outlier last.
function batch(negatives, spread, outlier) {
  const f = range(negatives).map(i => Math.max(-.999, Math.min(.999, spread*normalQuantile((i + .5)/negatives))));
  return [...f, outlier];
}

// InfoNCE's law of the negatives, and ADNCE's: shares of the gradient.
const worstCase = (f, temperature) => softmax(f.map(s => s/temperature));
const adnceLaw = (f, temperature, mu, sigma) => softmax(f.map(s => s/temperature - (s - mu)**2/(2*sigma**2)));

// KL divergence from the uniform law, in nats, as a sum without negative terms.
const radius = q => sum(q.map(p => { const r = p*q.length; return r > 0 ? r*Math.log(r) - r + 1 : 1; }))/q.length;
const effectiveSampleSize = q => sum(q)**2/sum(q.map(p => p*p));

// The radius of a point mass on the most similar negatives.
const ceiling = f => { const top = Math.max(...f); return -Math.log(f.filter(s => s === top).length/f.length); };

// The temperature whose worst case has this radius; from the ceiling on there is none.
function temperatureForRadius(f, eta) {
  if (!(eta > 0 && eta < ceiling(f))) return NaN;
  return Math.exp(-bisect(u => radius(worstCase(f, Math.exp(-u))) - eta, -12, 12));
}

const mean = f => sum(f)/f.length;
const variance = f => mean(f.map(s => s*s)) - mean(f)**2;
const effectiveTemperature = (s, temperature, mu, sigma) => 1/(1/temperature + (mu - s)/sigma**2);

// The outlier's share for many normal negatives, in closed form.
function outlierLeverage(temperature, mu, sigma, outlier, spread, negatives) {
  const v = 1/(1/spread**2 + 1/sigma**2), h = 1/temperature + mu/sigma**2;
  const bulk = Math.log(negatives) + Math.log(v/spread**2)/2 + v*h*h/2 - mu*mu/(2*sigma**2);
  return 1/(1 + Math.exp(bulk - outlier/temperature + (outlier - mu)**2/(2*sigma**2)));
}

// Everything that the page shows.
function derive({hold, temperature, radius: eta, mu, sigma, outlier, spread, negatives}) {
  const others = Number(negatives), f = batch(others, spread, outlier), limit = ceiling(f), capped = hold === "radius" && eta >= limit;
  const T = hold === "radius" ? temperatureForRadius(f, capped ? limit - 1e-3 : eta) : temperature;
  const describe = (q, formula, local) => ({q, radius: radius(q), ess: effectiveSampleSize(q), top: Math.max(...q), share: q[others], formula, local});
  return {f, T, limit, capped, spread: Math.sqrt(variance(f)),
    plain: describe(worstCase(f, T), outlierLeverage(T, 0, 1e6, outlier, spread, others), T),
    adnce: describe(adnceLaw(f, T, mu, sigma), outlierLeverage(T, mu, sigma, outlier, spread, others), effectiveTemperature(outlier, T, mu, sigma))};
}

return {normalQuantile, batch, worstCase, adnceLaw, radius, effectiveSampleSize, ceiling, temperatureForRadius, effectiveTemperature, outlierLeverage, derive};
})();

{
const {linspace, geomspace, logSumExp, show, svg, axes, draggable, dro} = contrastive;
const BINS = 40;

// Mass of a law in each of 40 bins of cosine, as a staircase.
function staircase(f, q) {
  const mass = Array(BINS).fill(0);
  f.forEach((s, i) => { mass[Math.min(BINS - 1, Math.floor((s + 1)/2*BINS))] += q[i]; });
  return mass.flatMap((m, i) => [[-1 + 2*i/BINS, m], [-1 + 2*(i + 1)/BINS, m]]);
}

// Share relative to the mean share, for any cosine.
const relative = (logit, f) => { const total = logSumExp(f.map(logit)) - Math.log(f.length); return s => Math.exp(logit(s) - total); };

contrastive.page("dro", {
  controls: [
    {key: "hold", group: "Price or ball", label: "what is held fixed", options: {temperature: "the temperature", radius: "the radius"}, value: "temperature"},
    {key: "temperature", group: "Price or ball", label: "temperature τ", min: .02, max: 2, log: true, value: .2, sets: {hold: "temperature"}},
    {key: "radius", group: "Price or ball", label: "radius η", unit: "nats", min: .001, max: 10, log: true, value: .5, sets: {hold: "radius"}},
    {key: "mu", group: "Gaussian of ADNCE", label: "centre μ", min: -1, max: 2, step: .05, value: .7},
    {key: "sigma", group: "Gaussian of ADNCE", label: "width σ", min: .1, max: 10, log: true, value: .5},
    {key: "outlier", group: "Negatives", label: "cosine of the outlier", min: -.95, max: .99, step: .01, value: .95},
    {key: "spread", group: "Negatives", label: "spread of the others", min: .05, max: .4, step: .01, value: .2},
    {key: "negatives", group: "Negatives", label: "how many others", options: {63: "63", 509: "509", 4095: "4 095"}, value: "509"}],
  derive: dro.derive,
  follow: ({T, plain}) => ({temperature: T, radius: plain.radius}),
  headline({plain, adnce, capped, limit}) {
    const ratio = adnce.share/plain.share, word = ratio > 1.05 ? "promoted" : ratio < .95 ? "damped" : "unchanged";
    return {badge: `outlier ${word}`, tone: word === "damped" ? "good" : word === "promoted" ? "bad" : "",
      text: (capped ? `This batch holds no more than ${show(limit)} nats, so the radius stops there. ` : "")
        + `The outlier takes ${show(100*plain.share)} % of InfoNCE's gradient and ${show(100*adnce.share)} % of ADNCE's at the same temperature.`};
  },
  readouts: {
    columns: [["InfoNCE", "c1"], ["ADNCE", "c2"]],
    rows: [
      {key: "share", label: "outlier’s share of the gradient", unit: "%", of: [m => 100*m.plain.share, m => 100*m.adnce.share]},
      {key: "formula", label: "… for many normal negatives", unit: "%", of: [m => 100*m.plain.formula, m => 100*m.adnce.formula]},
      {key: "radius", label: "radius, KL from the batch’s law", unit: "nats", of: [m => m.plain.radius, m => m.adnce.radius]},
      {key: "ess", label: "effective sample size", unit: "negatives", of: [m => m.plain.ess, m => m.adnce.ess]},
      {key: "top", label: "largest share", unit: "%", of: [m => 100*m.plain.top, m => 100*m.adnce.top]},
      {key: "local", label: "local temperature at the outlier, below 0 past the peak", unit: "", of: [m => m.plain.local, m => m.adnce.local]}]},
  figures: [{
    wide: true, height: 260, handles: true, legend: [["c1", "InfoNCE"], ["c2", "ADNCE"], ["c0", "no weights"]],
    caption: "Share of the gradient against cosine, over the mean share. Drag the marked outlier.",
    alt: ({plain, adnce}) => `Relative share against cosine; the outlier has ${show(plain.share)} of the gradient under InfoNCE and ${show(adnce.share)} under ADNCE.`,
    draw({model: {f, T, plain, adnce}, state: {mu, sigma, outlier}, width, height, set}) {
      const a = axes({width, height, x: {domain: [-1, 1], label: "cosine of the negative"}, y: {domain: [1e-4, 1e3], log: true, label: "share / mean share"}}), n = f.length;
      const curve = logit => { const share = relative(logit, f); return linspace(-1, 1, 201).map(s => [s, Math.max(share(s), 1e-9)]); };
      const value = x => Math.max(-.95, Math.min(.99, Math.round(100*(-1 + 2*(x - a.X(-1))/(a.X(1) - a.X(-1))))/100));
      const mark = (law, style) => draggable(svg("circle", {class: `dot ${style}`, cx: a.X(outlier), cy: a.Y(Math.max(1e-4, law.share*n)), r: 7}), x => set({outlier: value(x)}));
      return [a.frame, a.across(1, "c0 dash"), a.upright(outlier, "c0"), a.line(curve(s => s/T), "c1"), a.line(curve(s => s/T - (s - mu)**2/(2*sigma**2)), "c2"),
        mark(plain, "c1"), mark(adnce, "c2"), a.note(outlier, 1e3, "outlier", "", outlier > .6 ? "end" : "start", outlier > .6 ? -6 : 6, 12)];
    }}, {
    height: 240, legend: [["c0", "negatives"], ["c1", "InfoNCE"], ["c2", "ADNCE"]],
    caption: "Where the negatives are, and where the gradient goes: mass in bins of width 0.05.",
    alt: () => "Three histograms over cosine: the batch, InfoNCE's law and ADNCE's law.",
    draw({model: {f, plain, adnce}, width, height}) {
      const laws = [[f.map(() => 1/f.length), "c0"], [plain.q, "c1"], [adnce.q, "c2"]].map(([q, style]) => [staircase(f, q), style]);
      const top = Math.max(.05, ...laws.flatMap(([points]) => points.map(p => p[1])));
      const a = axes({width, height, x: {domain: [-1, 1], label: "cosine of the negative"}, y: {domain: [0, top*1.05], label: "mass"}});
      return [a.frame, laws.map(([points, style]) => a.line(points, style))];
    }}, {
    height: 240, legend: [["c1", "this batch"], ["c0", "variance / 2τ²"], ["c3", "ceiling"]],
    caption: "The radius that a temperature buys; dashed, the square-root law and the batch’s ceiling.",
    alt: ({T, plain}) => `Radius against temperature on logarithmic axes, falling; temperature ${show(T)} has radius ${show(plain.radius)} nats.`,
    draw({model: {f, T, limit, spread, plain}, width, height}) {
      const a = axes({width, height, x: {domain: [.02, 2], log: true, label: "temperature τ"}, y: {domain: [1e-3, 20], log: true, label: "radius η (nats)"}});
      const ts = geomspace(.02, 2, 61);
      return [a.frame, a.across(limit, "c3 dash"), a.line(ts.map(t => [t, spread**2/(2*t*t)]), "c0 dash"), a.line(ts.map(t => [t, dro.radius(dro.worstCase(f, t))]), "c1"), a.dots([[T, plain.radius]], "c1", 6)];
    }}]});
}
