"""Shared by the tests that open the built site in a headless browser.

`make site` (python docs/build.py) builds it first. Without a browser the tests are skipped and say so;
CONTRASTIVE_NB_REQUIRE_BROWSER=1 turns that into an error. CONTRASTIVE_NB_BROWSER names another Chromium."""
import functools, http.server, os, shutil, threading
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available(): os.environ.setdefault("TRITON_INTERPRET", "1") # read when kernels are defined, so before any import of them

SITE = Path(__file__).resolve().parents[1]/"docs"/"_site"
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

def absent(reason: str):
    "Skips, or fails where a browser is required."
    if os.environ.get("CONTRASTIVE_NB_REQUIRE_BROWSER") == "1": pytest.fail(reason)
    print(reason)
    pytest.skip(reason)

@pytest.fixture(scope="module")
def site():
    if not (SITE/"index.html").exists(): absent("docs/_site is not built: run `make site` (python docs/build.py) first")
    return SITE

@pytest.fixture(scope="module")
def browser():
    try: from playwright.sync_api import sync_playwright
    except ImportError: return absent("playwright is not installed: pip install playwright")
    path = os.environ.get("CONTRASTIVE_NB_BROWSER") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not path: return absent("no Chromium on this machine: install chromium, or name one in CONTRASTIVE_NB_BROWSER")
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, headless=True, args=ARGS)
        yield b
        b.close()

WINDOWS = {"desktop": {"viewport": {"width": 1440, "height": 900}}, "phone in the dark": {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}}

@pytest.fixture
def window(browser):
    "Opens a window of one kind, closed at the end of the test."
    opened = []
    def open_window(kind="desktop"):
        opened.append(browser.new_context(**WINDOWS[kind]))
        return opened[-1]
    yield open_window
    for w in opened: w.close()

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
    def send_error(self, code, *args, **kw): # no icon is asked for by the pages; browsers ask by themselves
        if self.path == "/favicon.ico": self.send_response(204), self.end_headers()
        else: super().send_error(code, *args, **kw)

def serve(folder: Path):
    "A local server on a free port."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}/"

@pytest.fixture(params=["file", "http"])
def base(request, site):
    "Address of the site, and the prefix that every request has to have."
    if request.param == "file": return (f"{site.as_uri()}/", f"{site.as_uri()}/")
    server, url = serve(site)
    request.addfinalizer(server.shutdown)
    return (url, url)
