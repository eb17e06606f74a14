"Opens every page of the built site in a headless browser, from the disk and from a local server; see conftest.py for what it needs."
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

from contrastive_nb.reach import registered

pytestmark = pytest.mark.browser

# ---- what a page holds, read without a browser

class Page(HTMLParser):
    "Anchors, links and pictures of one HTML file."
    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.pictures = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("img", "script", "source", "iframe") and a.get("src"): self.links.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "icon", "shortcut icon") and a.get("href"): self.links.append(a["href"])
        if tag == "img": self.pictures.append((a.get("src", ""), a.get("alt")))

def broken_links(site: Path) -> list[str]:
    "Links inside the site that lead to no file, or to a file without that anchor; pictures without alternative text."
    pages, faults = {p: Page(p) for p in sorted(site.rglob("*.html"))}, []
    for path, page in pages.items():
        here = path.relative_to(site)
        faults += [f"{here}: no alternative text: {src[:80]}" for src, alt in page.pictures if not (alt or "").strip() or alt == src]
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("//"): continue # other hosts are only named; the browser shows whether one is asked
            address, anchor = urldefrag(link)
            address = urlsplit(address).path
            target = (path.parent/unquote(address)).resolve() if address else path
            if not target.is_file(): faults.append(f"{here}: broken link: {link}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids: faults.append(f"{here}: no such anchor: {link}")
    return faults

# ---- what the browser sees

def open_page(context, url: str, origin: str) -> list[str]:
    "Opens one page and returns its faults: console errors, requests that leave, failed requests, markup left as source, equations over their numbers, pictures not drawn."
    tab, faults = context.new_page(), []
    tab.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: faults.append(f"script: {e}"))
    tab.on("request", lambda r: None if r.url.startswith((origin, "data:", "blob:")) else faults.append(f"request leaves the site: {r.url[:120]}"))
    tab.on("requestfailed", lambda r: faults.append(f"request failed: {r.url[:120]}"))
    tab.on("response", lambda r: faults.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)
    tab.goto(url, wait_until="load")
    math = tab.evaluate("""async () => {
        const all = [...document.querySelectorAll('.math')];
        if (all.length) { if (!window.MathJax?.startup?.promise) return ['mathematics: MathJax is not there']; await MathJax.startup.promise; }
        const bare = all.filter(e => !e.querySelector('mjx-container svg')).map(e => 'mathematics not drawn: ' + e.textContent.slice(0, 80));
        const wrong = [...document.querySelectorAll('[data-mjx-error]')].map(e => 'mathematics: ' + e.getAttribute('data-mjx-error') + ': ' + e.closest('.math').textContent.slice(0, 80));
        const loose = [...document.querySelectorAll('article p, article li, article td, article figcaption')]
            .filter(e => !e.closest('pre, .bibliography')).map(e => { const c = e.cloneNode(true); c.querySelectorAll('.math, code, pre').forEach(x => x.remove()); return c.textContent; })
            .filter(t => /\\\\[a-zA-Z]{2,}|\\$\\$|\\|\\s*[-\u2013\u2014]+\\s*\\||:::|\\}`|#\\|/.test(t)).map(t => 'markup left as source: ' + t.trim().slice(0, 80));
        return [...bare, ...wrong, ...loose]; }""")
    math += tab.evaluate("""() => {
        const box = (e, selector) => e.querySelector(selector)?.getBoundingClientRect();
        const covers = (a, b) => a && b && a.right > b.left + 1 && a.left < b.right && a.bottom > b.top && a.top < b.bottom;
        const run = [...document.querySelectorAll('div.math')].filter(e => covers(box(e, 'svg'), box(e, '.eqno'))).map(e => 'an equation runs into its number: ' + e.id);
        const roles = [...document.querySelectorAll('article pre')].flatMap(e => e.textContent.match(/\\{(eq|prf:ref|numref|cite:p)\\}`[^`]*`/g) ?? []).map(t => 'a role is left in a source: ' + t);
        return [...run, ...roles]; }""")
    pictures = tab.evaluate("[...document.images].filter(i => i.getClientRects().length && !(i.complete && i.naturalWidth)).map(i => i.src)")
    wide = tab.evaluate("Math.max(...[document.documentElement, ...document.querySelectorAll('.content')].map(e => e.scrollWidth - e.clientWidth))")
    faults += math + [f"picture not drawn: {p[:80]}" for p in pictures]
    if wide > 1: faults.append(f"the page is {wide} pixels wider than the window")
    tab.close()
    return [f"{urlsplit(url).path.rsplit('/', 1)[-1]}: {f}" for f in faults]

def search(context, base: str, origin: str, query: str) -> tuple[int, list[str]]:
    "Types a query into the search field of the first page; number of results and faults."
    tab, faults = context.new_page(), []
    tab.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    tab.on("request", lambda r: None if r.url.startswith((origin, "data:", "blob:")) else faults.append(f"request leaves the site: {r.url[:120]}"))
    tab.goto(urljoin(base, "index.html"))
    field = tab.locator("input[name=q]").first
    field.fill(query)
    field.press("Enter")
    tab.wait_for_selector("#search-results .search-summary:not(:empty)", timeout=60_000) # results appear one by one, and every object of the package is one for its name
    tab.wait_for_function("!document.querySelector('#search-progress') || document.querySelector('#search-progress').textContent.trim() === '' || document.querySelectorAll('#search-results li').length", timeout=60_000)
    tab.wait_for_timeout(300)
    n = tab.locator("#search-results li").count()
    tab.close()
    return n, faults

# ---- tests

def test_links_and_alternative_text(site):
    faults = broken_links(site)
    assert not faults, "\n".join(faults)

def test_every_page_opens(site, window, base):
    "From the disk in a wide light window, from a server in a narrow dark one."
    pages = sorted(p.relative_to(site).as_posix() for p in site.glob("*.html"))
    assert len(pages) > 3
    tab = window("desktop" if base[0].startswith("file:") else "phone in the dark")
    faults = [f for p in pages for f in open_page(tab, base[0] + p, base[1])]
    assert not faults, "\n".join(faults)

@pytest.mark.parametrize("query, found", [("contrastive", True), ("loss", True), ("zyxwvut", False)])
def test_search(window, base, query, found):
    n, faults = search(window(), *base, query)
    assert not faults, "\n".join(faults)
    assert (n > 0) == found, f"{n} results for {query!r}"

PLANTED = {
    "broken link": '<a href="nowhere.html">x</a>',
    "no such anchor": '<a href="#nowhere">x</a>',
    "no alternative text": '<img src="dot.png">',
    "console": "<script>console.error('planted')</script>",
    "script": "<script>nothing.here()</script>",
    "request leaves": '<img alt="x" src="http://192.0.2.1/x.png">',
    "MathJax is not there": '<span class="math">x</span>',
    "markup left": r"<article><p>Left as \frac{1}{2} source</p></article>",
    "left as source": "<article><p>| a | b | |---|---| | 1 | 2 |</p></article>",
    "picture not drawn": '<img alt="x" src="absent.png">',
    "runs into its number": '<div class="math" style="position:relative"><mjx-container><svg width="300" height="20"></svg></mjx-container><span class="eqno" style="position:absolute;left:100px;top:0">(1)</span></div>',
    "a role is left": "<article><pre>the bound {eq}`eq-bound`</pre></article>",
    "wider": '<div style="width:3000px">x</div>',
}
@pytest.mark.parametrize("fault", PLANTED)
def test_the_checks_bite(window, tmp_path, fault):
    "Each fault that the tests above look for, planted in a page, is reported; the same page without it is clean."
    (tmp_path/"dot.png").write_bytes(bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"))
    def faults(body):
        (tmp_path/"page.html").write_text(f"<!doctype html><meta charset=utf-8><title>x</title><body>{body}", encoding="utf-8")
        root = f"{tmp_path.as_uri()}/"
        return broken_links(tmp_path) + open_page(window(), root + "page.html", root)
    assert faults('<img alt="a dot" src="dot.png"><a href="page.html">x</a>') == []
    assert any(fault in f for f in faults(PLANTED[fault])), faults(PLANTED[fault])

# ---- verdicts that a sceptic can read

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent/"nbs").glob("[1-9]*.ipynb"))
FINISHED = {"20_dro"} # chapters whose settling functions stand in cells of their own, 20 lines of 88 characters at most
UNPRINTED = 29 # settling functions of the others that their page does not print: this only goes down

class Sources(HTMLParser):
    "The code blocks of a page as text."
    def __init__(self, text: str):
        super().__init__()
        self.blocks, self.depth = [], 0
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        if tag == "pre":
            self.depth += 1
            self.blocks.append("")
    def handle_endtag(self, tag): self.depth -= tag == "pre"
    def handle_data(self, data):
        if self.depth: self.blocks[-1] += data

def settling_blocks(site: Path) -> dict[str, str]:
    "Settling function -> the code block of its chapter's page that holds it, or nothing."
    pages, found = {}, {}
    chapters = {p.stem.split("_", 1)[1]: p.stem for p in NOTEBOOKS}
    for module, name in registered("settles").values():
        chapter = chapters[module]
        if chapter not in pages: pages[chapter] = Sources((site/f"{chapter}.html").read_text(encoding="utf-8")).blocks
        found[f"{chapter}: {name}"] = next((b for b in pages[chapter] if f"def {name}(" in b), "")
    return found

def test_settling_functions_are_printed(site):
    missing = [where for where, block in settling_blocks(site).items() if not block]
    assert not [m for m in missing if m.split(":")[0] in FINISHED] and len(missing) <= UNPRINTED, missing

def test_settling_functions_can_be_read(site):
    "In the finished chapters: alone in their block, 20 lines, 88 characters."
    for where, block in settling_blocks(site).items():
        if where.split(":")[0] not in FINISHED: continue
        lines = block.strip().splitlines()
        assert lines[0].startswith("@settles(") and block.count("\ndef ") == 1, where
        assert len(lines) <= 21 and max(map(len, lines)) <= 88, f"{where}: {len(lines)} lines, up to {max(map(len, lines))} characters"
