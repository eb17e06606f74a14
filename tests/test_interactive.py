"""The interactive pages in a headless browser: their numbers against the package's, their sliders by keyboard, their state in the address.

What a page displays carries its full precision in the `value` of a <data> element; its pure functions are `contrastive.NAME`. See conftest.py for what the tests need."""
import math
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from scipy.stats import norm

from .test_site import open_page

pytestmark = pytest.mark.browser
CLOSE = dict(rel=1e-6, abs=1e-12)
double = lambda x: torch.tensor(x, dtype=torch.double)

class Tab:
    "An interactive page in a browser, at a given state."
    def __init__(self, tab, url: str, name: str):
        self.tab, self.url, self.name, self.faults = tab, url, name, []
        tab.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: self.faults.append(str(e)))
    def at(self, **state):
        "Opens the page with this state in its address."
        self.tab.goto("about:blank")
        self.tab.goto(self.url + "#" + "&".join(f"{k}={v}" for k, v in state.items()))
        self.settle()
        return self
    def call(self, function: str, *args):
        "A pure function of the page."
        return self.tab.evaluate(f"a => contrastive.{self.name}.{function}(...a)", list(args))
    def shown(self) -> dict[str, float]:
        "The displayed numbers, in full."
        number = lambda v: {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}.get(v) if not v.lstrip("-")[0].isdigit() else float(v)
        return {k: number(v) for k, v in self.tab.evaluate("[...document.querySelectorAll('.interactive data')].map(e => [e.dataset.key, e.getAttribute('value')])")}
    def press(self, control: str, *keys: str):
        "Keys on one control, found by its name."
        for key in keys: self.tab.press(f"[name={control}]", key)
        self.settle()
    def settle(self): self.tab.wait_for_selector(".interactive:not([aria-busy]) .headline")
    def text(self, selector: str) -> str: return self.tab.inner_text(f".interactive {selector}")
    def hash(self) -> dict[str, str]: return dict(parse_qsl(self.tab.evaluate("location.hash.slice(1)")))

@pytest.fixture
def page(window, site):
    "Opens interactive pages from the disk; at the end none may have complained."
    opened, context = [], window()
    def open_interactive(name, **state):
        file = site/"interactive"/f"{name}.html"
        assert file.exists(), f"{file} is not built: run `make site` again"
        opened.append(Tab(context.new_page(), file.as_uri(), name))
        return opened[-1].at(**state)
    yield open_interactive
    assert not [f for tab in opened for f in tab.faults]

# ---- all pages

NAMES = ["dro", "diversity", "clusters", "spectral", "inductive"]

def test_every_page_is_tested(site):
    assert {p.stem for p in (site/"interactive").glob("*.html")} == {"index", *NAMES}

def test_pages_open(site, window, base):
    "No fault in the console, no request to another host, no wider than the window: from the disk in a wide light one, from a server in a narrow dark one."
    context = window("desktop" if base[0].startswith("file:") else "phone in the dark")
    faults = [f for name in ["index", *NAMES] for f in open_page(context, f"{base[0]}interactive/{name}.html", base[1])]
    assert not faults, "\n".join(faults)

@pytest.mark.parametrize("name", NAMES)
def test_sliders_and_address(page, name):
    "Every control has a label and answers to the keyboard; the state comes back after a reload, goes with Reset, and nonsense in the address is ignored."
    tab = page(name)
    start = tab.shown()
    assert start and all(math.isfinite(v) for v in start.values())
    for c in tab.tab.query_selector_all(".interactive :is(input, select)"):
        key = c.get_attribute("name")
        assert tab.text(f"label[for=control-{key}]").strip()
        if c.is_disabled(): continue
        before, last = c.evaluate("e => e.value"), c.evaluate("e => e.value === (e.max || e.options[e.options.length - 1].value)")
        tab.press(key, ("Arrow" + ("Left" if c.get_attribute("type") else "Up")) if last else ("Arrow" + ("Right" if c.get_attribute("type") else "Down")))
        assert c.evaluate("e => e.value") != before, key
        if c.get_attribute("type"): assert tab.text(f"output[for=control-{key}]") == c.get_attribute("aria-valuetext")
    moved, state = tab.shown(), tab.hash()
    assert moved != start and state
    tab.tab.reload()
    tab.settle()
    assert tab.shown() == moved and tab.hash() == state
    tab.tab.click("text=Reset")
    tab.settle()
    assert tab.shown() == start and tab.hash() == {}
    assert tab.at(nothing=1, **{key: "nonsense" for key in state}).shown() == start

# ---- the worst case of a batch

DRO = [dict(temperature=.2), dict(temperature=.05, outlier=.5, negatives=63), dict(temperature=1, mu=.2, sigma=.3, spread=.4, negatives=4095), dict(hold="radius", radius=2.5, outlier=-.3), dict(hold="radius", radius=.01)]

@pytest.mark.parametrize("state", DRO)
def test_dro(page, state):
    from contrastive_nb.adnce import adnce_law, effective_temperature, outlier_leverage
    from contrastive_nb.robust import effective_sample_size, kl, radius, radius_ceiling, temperature_for_radius, top_weight, worst_case
    tab, s = page("dro", **state), dict(temperature=.2, mu=.7, sigma=.5, outlier=.95, spread=.2, negatives=509) | state
    f = double(tab.call("batch", s["negatives"], s["spread"], s["outlier"]))
    p = (torch.arange(s["negatives"]).double() + .5)/s["negatives"]
    assert f.tolist() == pytest.approx([*(s["spread"]*double(norm.ppf(p))).clamp(-.999, .999).tolist(), s["outlier"]], rel=1e-8, abs=1e-12)
    T = temperature_for_radius(f, s["radius"]).item() if s.get("hold") == "radius" else s["temperature"]
    shown, expected = tab.shown(), {}
    for i, q, mu, sigma in ((0, worst_case(f, T), 0., 1e6), (1, adnce_law(f, T, s["mu"], s["sigma"]), s["mu"], s["sigma"])):
        local = effective_temperature(double(s["outlier"]), T, mu, sigma).item() if i else T
        expected |= {f"share.{i}": 100*q[-1].item(), f"formula.{i}": 100*outlier_leverage(T, mu, sigma, s["outlier"], s["spread"], s["negatives"]), f"radius.{i}": kl(q).item(),
                     f"ess.{i}": effective_sample_size(q).item(), f"top.{i}": 100*top_weight(q).item(), f"local.{i}": local}
    assert shown == pytest.approx(expected, **CLOSE)
    assert shown["radius.0"] == pytest.approx(radius(f, T).item(), **CLOSE)
    assert tab.call("ceiling", f.tolist()) == pytest.approx(radius_ceiling(f).item(), **CLOSE)
    assert tab.call("worstCase", f.tolist(), .1) == pytest.approx(worst_case(f, .1).tolist(), rel=1e-9, abs=1e-300)

def test_dro_says(page):
    "What the page tells the reader to try."
    assert page("dro", temperature=.05).shown()["ess.0"] < 10
    tab = page("dro", hold="radius", radius=.5, outlier=.3)
    temperatures = [tab.at(hold="radius", radius=.5, outlier=o).shown()["local.0"] for o in (.3, .6, .8, .95)]
    assert temperatures == sorted(temperatures) and temperatures[-1] > 1.1*temperatures[0]
    assert "promoted" in tab.at(temperature=.4).text(".badge") and "damped" in tab.at(temperature=.4, mu=.2, sigma=.3).text(".badge")
    assert "6.23" in tab.at(hold="radius", radius=9).text(".headline")

def test_dro_drag(page):
    "The outlier follows the pointer, and the address follows the outlier."
    tab = page("dro")
    box = tab.tab.locator(".handle").first.bounding_box()
    x, y = box["x"] + box["width"]/2, box["y"] + box["height"]/2
    tab.tab.mouse.move(x, y)
    tab.tab.mouse.down()
    for i in range(5): tab.tab.mouse.move(x - 40*i, y + 5)
    tab.tab.mouse.up()
    tab.tab.mouse.move(x, y)
    tab.settle()
    outlier = float(tab.hash()["outlier"])
    assert -.9 < outlier < .8 and tab.tab.locator("[name=outlier]").get_attribute("aria-valuetext") == f"{outlier:g}".replace("-", "\u2212")

# ---- positives on the sphere

SLICES = [dict(fixed=1), dict(fixed=1, sampler="constant", **{"lambda": .5}), dict(fixed=2, **{"lambda": 2.}, kappa=20, temperature=.1), dict(fixed=1, sampler="constant", rho=1, **{"lambda": 4}), dict(fixed=2, rho=.3, temperature=1, kappa=1, **{"lambda": .2})]

@pytest.mark.parametrize("state", SLICES)
def test_diversity_on_slices(page, state):
    from contrastive_nb.diversity import Positives, best_tilt, check_diversity, radial_halves, radial_loss, tilt, tilt_slope
    tab, s = page("diversity", **state), dict(kappa=10/3, temperature=.3, sampler="restricted", rho=0.) | {"lambda": 1.} | state
    p, T, shown = Positives(3, s["kappa"], s["fixed"], s["sampler"]), s["temperature"], tab.shown()
    A, U = radial_halves(tilt(s["lambda"]), p, T, s["rho"])
    expected = dict(A=A.item(), U=U.item(), loss=radial_loss(tilt(s["lambda"]), p, T, s["rho"]), isometry=radial_loss(tilt(1.), p, T, s["rho"]), mass=100., match=s["kappa"]*T)
    assert {k: shown[k] for k in expected} == pytest.approx(expected, **CLOSE)
    assert "fails" in tab.text(".badge") and not check_diversity(p, double([.6, .8, 0.]), draws=1000).holds
    best, least = best_tilt(p, T, s["rho"])
    if .05 < best < 20: assert shown["best"] == pytest.approx(best, rel=1e-4) and shown["least"] == pytest.approx(least, **CLOSE)
    else: assert shown["best"] > 19 and "∞" in tab.text(".headline")
    law = dict(kappa=s["kappa"], fixed=s["fixed"], sampler=s["sampler"], temperature=T)
    assert tab.call("slope", law) == pytest.approx(tilt_slope(p, T), **CLOSE)

@pytest.mark.parametrize("state", [dict(angle=180), dict(angle=60, **{"lambda": .5}), dict(angle=90, kappa=10, temperature=.5, **{"lambda": 2})])
def test_diversity_on_caps(page, state):
    from contrastive_nb.diversity import Positives, cap_loss, check_diversity, radial_map, tilt
    from contrastive_nb.sphere import cap_rule
    tab, s = page("diversity", fixed=0, **state), dict(kappa=10/3, temperature=.3) | {"lambda": 1.} | state
    p, shown = Positives(3, s["kappa"], angle=math.radians(s["angle"])), tab.shown()
    loss = lambda lam: cap_loss(radial_map(tilt(lam), 1), p, s["temperature"], 20)[0]
    mass = 1 - cap_rule(3, p.angle)[1].sum().item()
    assert shown["loss"] == pytest.approx(loss(s["lambda"]), **CLOSE) and shown["isometry"] == pytest.approx(loss(1.), **CLOSE)
    assert shown["mass"] == pytest.approx(100*mass, abs=1e-9)
    assert ("holds" in tab.text(".badge")) == check_diversity(p, double([.6, .8, 0.])).holds == (s["angle"] == 180)

def test_diversity_says(page):
    "What the page tells the reader to try."
    tab = page("diversity")
    assert tab.shown()["best"] < .6
    for angle in (180, 90, 60): assert tab.at(fixed=0, angle=angle).shown()["best"] == pytest.approx(1, abs=1e-3) and "λ = 1, is the best" in tab.text(".headline")
    assert tab.at(rho=1).shown()["best"] == pytest.approx(1, abs=1e-3)
    assert tab.at(rho=1, sampler="constant").shown()["best"] > 19
    assert tab.at(rho=.3, sampler="constant").shown()["best"] < 1 < tab.at(rho=.35, sampler="constant").shown()["best"]

def test_diversity_functions(page):
    from contrastive_nb.sphere import log_mgf, mean_resultant
    tab = page("diversity")
    for kappa in (0., .1, 3., 50.):
        for dim in (1, 2, 3, 10):
            assert tab.call("logMgf", kappa, dim) == pytest.approx(log_mgf(kappa, dim).item(), rel=1e-12, abs=1e-14)
            assert tab.call("meanResultant", kappa, dim) == pytest.approx(mean_resultant(kappa, dim).item(), rel=1e-12, abs=1e-14)

# ---- codes on the cube

def distance_law(name: str, d: int):
    "Law of the Hamming distance of two independent codes, by listing all pairs of vertices."
    vertices = (torch.arange(2**d)[:, None] >> torch.arange(d)) & 1
    keep = {"cube": vertices[:, 0] >= 0, "half": vertices.sum(1) % 2 == 0, "face": vertices[:, 0] == 0, "pair": (vertices.sum(1) % d) == 0, "point": vertices.sum(1) == 0}[name]
    return of_codes(vertices[keep])

def of_codes(codes):
    d = codes.shape[1]
    return torch.bincount((codes[:, None] != codes).sum(2).flatten(), minlength=d + 1).double()/len(codes)**2

def enumerated(law, beta: float, negatives: int) -> float:
    "E log(1 + sum of e^{-2 beta D_i}) by listing all tuples of distances."
    x, p = torch.exp(-2*beta*torch.arange(len(law)).double()), law
    total, weight = torch.ones(1).double(), torch.ones(1).double()
    for _ in range(negatives): total, weight = (total[:, None] + x).flatten(), (weight[:, None]*p).flatten()
    return (weight*total.log()).sum().item()

@pytest.mark.parametrize("d, beta, negatives", [(5, .4, 1), (2, .1, 4), (4, 3., 2), (3, 1., 8), (9, .7, 4)])
def test_clusters(page, d, beta, negatives):
    tab = page("clusters", d=d, beta=beta, negatives=negatives)
    shown = tab.shown()
    expected = {name: enumerated(distance_law(name, d), beta, negatives) for name in ("cube", "half", "face", "pair", "point")}
    assert {k: shown[f"{k}.0"] for k in expected} == pytest.approx(expected, rel=1e-12)
    assert {k: shown[f"{k}.1"] for k in expected} == pytest.approx({k: v - expected["cube"] for k, v in expected.items()}, rel=1e-6, abs=1e-13)
    vertices = 1 - 2*((torch.arange(2**d)[:, None] >> torch.arange(d)) & 1)
    for order in range(1, d + 1):
        law = of_codes(vertices[vertices[:, :order].prod(1) == 1])
        assert tab.call("gap", d, beta, negatives, order) == pytest.approx(enumerated(law, beta, negatives) - expected["cube"], rel=1e-6, abs=1e-13)
    gaps = {order: tab.call("gap", d, beta, negatives, order) for order in range(1, d + 1)}
    assert shown["order"] == min(gaps, key=gaps.get) and ("half of the cube" in tab.text(".badge")) == (min(gaps.values()) < 0)
    for t in (.3, 1.):
        laws = [distance_law("cube", d)*(1 + t*s*torch.tensor(-1.).double()**torch.arange(d + 1)) for s in (1, -1)]
        assert tab.call("tilted", t, d, beta, negatives) == pytest.approx(sum((1 + t*s)/2*enumerated(law, beta, negatives) for s, law in zip((1, -1), laws)), rel=1e-12)

def test_clusters_many_negatives(page):
    "With hundreds of negatives: another quadrature, in s, of scipy."
    from scipy.integrate import quad
    tab = page("clusters")
    for name, d, beta, negatives in (("cube", 10, 1., 256), ("half", 12, .3, 1024), ("pair", 6, 3., 1024)):
        p, x = distance_law(name, d).numpy(), torch.exp(-2*beta*torch.arange(d + 1).double()).numpy()
        integrand = lambda s: -math.exp(-s)*math.expm1(negatives*math.log1p((p*np.expm1(-s*x)).sum()))/s
        breaks = [0, *(10.**e for e in range(-6, 2)), 60]
        assert tab.call("loss", name, d, beta, negatives) == pytest.approx(sum(quad(integrand, a, b, epsabs=0, epsrel=1e-11, limit=200)[0] for a, b in zip(breaks, breaks[1:])), rel=1e-9)
    assert tab.call("expectedLog", [1.], 1., 1000) == pytest.approx(math.log(1001), rel=1e-13)

def test_clusters_and_the_chapter(page):
    from contrastive_nb.clusters import half_cube_gain, modes
    tab = page("clusters")
    for d, beta, negatives in ((5, .4, 1), (6, .3, 64), (10, 1., 256), (12, 2., 1024)):
        assert tab.call("gap", d, beta, negatives) == pytest.approx(half_cube_gain(d, beta, negatives), rel=1e-6, abs=1e-13)
    for order, mode in enumerate(modes(8, .7).tolist()): # with one negative a half cube has a single mode, of size 2^-d
        if order: assert tab.call("gap", 8, .7, 1, order) == pytest.approx(mode/2**8, rel=1e-6, abs=1e-13)

def test_clusters_threshold(page):
    "With one negative the threshold is the root of the last eigenvalue of the loss, an alternating sum; and what the page tells the reader to try."
    from scipy.optimize import brentq
    tab = page("clusters")
    for d in (4, 5, 8, 12):
        last = lambda beta: sum((-1)**j*math.comb(d, j)*math.log1p(math.exp(-2*beta*j)) for j in range(d + 1))
        found = tab.call("threshold", d, 1)
        assert found == pytest.approx(brentq(last, .95*found, 1.05*found, xtol=1e-14), rel=1e-8) and all(last(found*x) > 0 for x in (1.01, 1.5, 2))
    assert tab.call("threshold", 4, 1) == pytest.approx(.3520, abs=5e-5) and tab.call("gap", 4, .3, 1) == pytest.approx(-1.37e-4, rel=.01)
    assert all(tab.call("threshold", d, 1) == 0 for d in (2, 3))
    fall = [tab.call("threshold", 5, 2**i) for i in range(5)]
    assert fall == sorted(fall, reverse=True) and fall[0] == pytest.approx(.54, abs=.005) and fall[4] == 0
    assert tab.call("threshold", 10, 16) == pytest.approx(tab.call("threshold", 10, 1), abs=.02)
    six = tab.at(d=10, beta=.3).shown()
    assert six["half.1"] > 0 > six["least.1"] and six["order"] == 6
    assert "half of the cube" in tab.at(beta=.5).text(".badge") and "half" not in tab.at(beta=.6).text(".badge")

# ---- two graphs

FOURTH = ";0,0;0.1,0.1;2,0"
CORNERS = "1,0;1.2,0.1;1,-0.2;-1,1;-1.1,1.2;-0.9,1;-1,-1;-1.2,-1.1;-0.8,-1" + FOURTH

@pytest.mark.parametrize("state", [dict(), dict(across=.5, temperature=.05, points=CORNERS, anchor=5), dict(across=1., temperature=5, blocks=4, anchor=12), dict(across=.001, temperature=1, points=CORNERS.replace("1.2", "2.4"), anchor=9)])
def test_spectral(page, state):
    from contrastive_nb.graphs import block_graph, transition
    from contrastive_nb.spectral import attraction_and_repulsion, gaussian_log_kernel, graph_cross_entropy
    tab, s = page("spectral", **state), dict(blocks=3, across=.05, temperature=.5, anchor=1) | state
    Z = double([[float(x) for x in z.split(",")] for z in s["points"].split(";")] if "points" in s else tab.call("scatter", 12, 1.2, 4))[:3*s["blocks"]].requires_grad_()
    inside, every = (block_graph(s["blocks"], 3, w) for w in (0., 1.))
    pi, T, i = inside + s["across"]*(every - inside), s["temperature"], s["anchor"] - 1
    P, log_Q = transition(pi), gaussian_log_kernel(Z, T).log_softmax(1)
    attraction, repulsion = attraction_and_repulsion(pi, Z, T)
    H, E = graph_cross_entropy(pi, gaussian_log_kernel(Z, T)), torch.special.entr(P).sum()
    row = torch.where(P[i] > 0, P[i]*(P[i].log() - log_Q[i]), 0.).sum()
    expected = dict(attraction=attraction, repulsion=repulsion, sum=attraction + repulsion, crossEntropy=H, entropy=E, excess=H - E, rowGap=row)
    assert tab.shown() == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-9, abs=1e-11)
    points = Z.tolist()
    assert double(tab.call("blockGraph", s["blocks"], 3, s["across"])).equal(pi) and torch.allclose(double(tab.call("embeddingLaw", points, T)), log_Q.exp(), rtol=1e-11, atol=1e-300)
    assert torch.allclose(double(tab.call("gradient", P.tolist(), points, T)), torch.autograd.grad(H, Z)[0], rtol=1e-9, atol=1e-11)

def test_spectral_says(page):
    "Buttons, keys and the pointer; and what the page tells the reader to try."
    tab = page("spectral")
    tab.tab.click("text=Collapse"); tab.settle()
    start = tab.shown()
    assert start["attraction"] < .01 and start["repulsion"] == pytest.approx(9*math.log(8), abs=.01)
    for _ in range(3): tab.tab.click("text=Fifty steps"); tab.settle()
    assert tab.shown()["excess"] < 1e-4
    tab.tab.select_option("[name=blocks]", "4"); tab.settle()
    tab.tab.click("text=Collapse")
    for _ in range(3): tab.tab.click("text=Fifty steps"); tab.settle()
    assert .1 < tab.shown()["excess"] < .5*start["excess"]
    tab.at(points=CORNERS)
    before, points = tab.shown(), CORNERS.split(";")
    tab.tab.focus("[data-handle=point-4]")
    for _ in range(4): tab.tab.keyboard.press("Shift+ArrowRight"); tab.settle()
    after, moved = tab.shown(), tab.hash()["points"].split(";")
    assert [a == b for a, b in zip(points, moved)] == [i != 4 for i in range(12)] and float(moved[4].split(",")[0]) == pytest.approx(float(points[4].split(",")[0]) + 1)
    assert after["attraction"] > before["attraction"] and after["repulsion"] < before["repulsion"]
    box = tab.tab.locator("[data-handle=point-8]").bounding_box() # the last one drawn: no other lies on it
    x, y = box["x"] + box["width"]/2, box["y"] + box["height"]/2
    tab.tab.mouse.move(x, y)
    tab.tab.mouse.down(); tab.tab.mouse.move(x + 120, y + 40, steps=3); tab.tab.mouse.up(); tab.settle()
    assert [a == b for a, b in zip(moved, tab.hash()["points"].split(";"))] == [i != 8 for i in range(12)]
    far = tab.at(points=CORNERS, temperature=1).shown()
    near = tab.at(points=";".join(",".join(str(float(x)/2) for x in z.split(",")) for z in CORNERS.split(";")), temperature=.25).shown()
    assert far == pytest.approx(near, rel=1e-9)

# ---- what an encoder implements

@pytest.mark.parametrize("state", [dict(), dict(k=8, **{"lambda": .03}), dict(d=6, s=2, low=0., k=5, **{"lambda": .1}), dict(d=4, s=1, k=2, low=.9, **{"lambda": 10}), dict(d=3, s=9, k=6)])
def test_inductive_linear(page, state):
    from contrastive_nb.inductive import cube_moments, eigenfunctions, minimiser, phi, population_loss
    tab, given = page("inductive", **state), dict(d=8, s=3, low=.5, k=3) | {"lambda": 1.} | state
    d, s, k, lam = given["d"], min(given["s"], given["d"] - 1), given["k"], given["lambda"]
    moments, used = cube_moments(d, s, given["low"]), min(k, d)
    psi, U = eigenfunctions(moments)[0], minimiser(moments, used, lam)
    root = U @ moments.C @ U.T
    heads = [1 - U[:, i] @ torch.linalg.pinv(root, hermitian=True, rtol=1e-10) @ U[:, i] for i in range(s)] # a label x_i: E y f = U_i
    expected = dict(needed=(psi < 1e-12).sum().item(), mean=sum(heads).item()/s, worst=float(k < s), loss=population_loss(U, moments, lam).item() + lam*(k - used),
                    rank=torch.linalg.matrix_rank(U, rtol=1e-9).item(), phi=phi(moments, k, per_dimension=True), spurious=psi[-1].item())
    assert tab.shown() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert tab.call("spectrum", "linear", d, s, given["low"], d) == pytest.approx(psi.tolist(), rel=1e-9, abs=1e-12)

def test_inductive_modes(page):
    "Which zero modes are lit, and the spectrum and error of all functions and of ReLU, from features on the cube."
    from contrastive_nb.inductive import bit_detectors, corners, cube, eigenfunctions, graph_moments, lit_frame, minimiser, orthonormal, probe_error, relu, view_moments
    from contrastive_nb.core import stream
    from itertools import combinations
    tab, kinds = page("inductive"), {"linear": "linear", "ReLU": "relu", "all functions": "all"}
    for d, s in ((5, 2), (4, 3)):
        for row in lit_frame(d, s).itertuples(index=False):
            assert tab.call("modes", s, row.invariant, row.spurious, d) == row.modes and tab.call("lit", kinds[row[0]], s, row.invariant, row.spurious, d) == row.lit
    law, bits = cube(4, 2), corners(4)
    graph = torch.block_diag(*[torch.outer(law.weights, law.weights)]*16)
    psi = eigenfunctions(graph_moments(torch.eye(len(graph), dtype=torch.double), graph))[0]
    assert tab.call("spectrum", "all", 4, 2, .5, 40) == pytest.approx(psi[:40].tolist(), abs=1e-9)
    units = relu(law.points, *bit_detectors(4, 2))
    assert tab.call("spectrum", "relu", 4, 2, .5, 9) == pytest.approx(eigenfunctions(view_moments(units, law.weights))[0].tolist(), abs=1e-12)
    one_hot, tables = relu(bits, *bit_detectors(4, 2)), torch.eye(16).double()*4
    for k in range(1, 5): # all choices of k indicators, each a minimiser
        assert tab.call("error", "relu", 4, 2, k, "bit")["mean"] == pytest.approx(np.mean([probe_error(one_hot[:, c], bits[:, :1]).item() for c in combinations(range(4), k)]), abs=1e-12)
        assert tab.call("error", "all", 4, 2, k, "bit")["mean"] == pytest.approx(np.mean([probe_error(tables[:, c], bits[:, :1]).item() for c in combinations(range(16), k)]), abs=1e-12)
    parity = bits[:, :2].prod(1, keepdim=True)
    moments = view_moments(law.points, law.weights)
    assert probe_error(bits @ minimiser(moments, 4, 1.).T, parity).item() == pytest.approx(tab.call("error", "linear", 4, 2, 4, "parity")["mean"], abs=1e-12)
    assert probe_error(one_hot, parity).item() == pytest.approx(tab.call("error", "relu", 4, 2, 4, "parity")["worst"], abs=1e-12)
    blind = orthonormal(15, 16, stream(0, "interactive"), avoid=bits[:, :1])
    assert probe_error(blind, bits[:, :1]).item() == pytest.approx(tab.call("error", "all", 4, 2, 15, "bit")["worst"], abs=1e-12)

def test_inductive_says(page):
    "What the page tells the reader to try."
    tab = page("inductive")
    assert "every minimiser works" in tab.text(".badge")
    all_functions = tab.at(kind="all").shown()
    assert all_functions["mean"] == pytest.approx(.99, abs=.005) and all_functions["needed"] == 256 and "may fail" in tab.text(".badge")
    assert "no minimiser" in tab.at(label="parity", k=8).text(".badge") and "every" in tab.at(label="parity", kind="relu", k=8).text(".badge")
    assert tab.at(k=8, **{"lambda": .035}).shown()["rank"] == 3 and tab.at(k=8, **{"lambda": .04}).shown()["rank"] == 8
    assert tab.at(low=0).shown()["spurious"] == pytest.approx(1/4, rel=1e-12) and tab.at().shown()["spurious"] == pytest.approx(1/28, rel=1e-12)
    assert math.isnan(tab.at(kind="relu", k=9).shown()["mean"]) and "open" in tab.text(".badge")
