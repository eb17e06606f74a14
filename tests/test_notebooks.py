"Every notebook runs from top to bottom, each in a process of its own; notebooks and modules are in one-to-one correspondence."
import json, os, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))
WITHOUT_MODULE = {"index", "82_peers"} # read, not imported

def cells(nb): return json.loads(nb.read_text(encoding="utf-8"))["cells"]
def code(nb): return ["".join(c["source"]) for c in cells(nb) if c["cell_type"] == "code"]
def module(nb): return next((m[1] for src in code(nb) if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", src, re.M))), None)

def run(nb, *options):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [Path(sys.executable).parent/"nbdev-test", str(nb), "--n-workers", "0", "--do-print", *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Success." in said and f"Completed {nb}" in said, said[-4000:]

@pytest.fixture(scope="module")
def runs(request):
    "The selected notebooks, one a core at a time; a test waits for its own."
    chosen = [item.callspec.params["nb"] for item in request.session.items if item.function is test_runs]
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    yield {nb: pool.submit(run, nb) for nb in chosen}
    pool.shutdown(cancel_futures=True)

@pytest.mark.notebook
@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(nb, runs): runs[nb].result()

@pytest.mark.notebook
def test_equal_values_in_other_libraries():
    for peer in ("lightly", "pytorch_metric_learning"): pytest.importorskip(peer, reason=f"{peer} is not installed: pip install 'contrastive_nb[peers]'")
    run(ROOT/"nbs"/"82_peers.ipynb", "--flags", "peers")

def test_one_notebook_one_module():
    modules = [m for nb in NOTEBOOKS if (m := module(nb))]
    files = {p.stem for p in (ROOT/"contrastive_nb").glob("*.py")} - {"__init__", "_modidx"}
    assert len(modules) == len(set(modules)) and set(modules) == files, f"orphans: {files ^ set(modules)}"
    assert {nb.stem for nb in NOTEBOOKS if not module(nb)} <= WITHOUT_MODULE
    assert len(NOTEBOOKS) == len(files) + sum((ROOT/"nbs"/f"{n}.ipynb").exists() for n in WITHOUT_MODULE)

def test_imports_point_down():
    number = {module(nb): i for i, nb in enumerate(NOTEBOOKS) if module(nb)}
    room = {module(nb) for nb in NOTEBOOKS if nb.stem < "10"}
    for nb in NOTEBOOKS:
        if not (m := module(nb)) or m == "cli": continue
        for src in code(nb):
            if not re.search(r"^#\|\s*exports?\b", src, re.M): continue
            for used in re.findall(r"^\s*from contrastive_nb\.(\w+) import", src, re.M):
                assert number[used] < number[m], f"{nb.stem} imports {used}, which does not have a lower number"
                assert not "10" <= nb.stem < "60" or used in room, f"chapter {nb.stem} imports {used}, which is not a room"

@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda p: p.stem)
def test_size_and_shape(nb):
    assert nb.stat().st_size < 600_000 and len(cells(nb)) <= 110
    first = "".join(cells(nb)[0]["source"])
    assert re.fullmatch(r"# .+\n\n> .+", first), "the first cell is a title and a one-line subtitle, and nothing else: nbdev drops the rest"
    for c in cells(nb):
        for o in c.get("outputs", []): assert o["output_type"] != "error", "".join(c["source"])[:80]

@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda p: p.stem)
def test_figures_have_caption_and_alternative_text(nb):
    for c in cells(nb):
        if not any("image/png" in o.get("data", {}) for o in c.get("outputs", [])): continue
        for directive in ("label", "fig-cap", "fig-alt"): assert re.search(rf"^#\|\s*{directive}:", "".join(c["source"]), re.M), f"{directive} missing: {''.join(c['source'])[:80]}"
