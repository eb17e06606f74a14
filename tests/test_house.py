"""One thought a line. Finished pages keep to `LIMITS`; the others may not exceed their values in `house.json`, which only go down.

The yardstick of a module: syntax nodes for each line that holds code, over its functions (median and 90th percentile); of its
notebook: the longest cell, the most definitions in a cell, the lines over 120 characters. Prose may be longer.
`python tests/test_house.py --lower` rewrites the values that fell, and only those. A new page is finished from the start."""
import ast, io, json, re, sys, tokenize
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parent.parent
RATCHET = ROOT/"tests"/"house.json"
LIMITS = {"median": 13, "p90": 18, "longest cell": 50, "definitions": 3, "long lines": 0}
FINISHED = {"sphere", "metrics", "graphs", "robust", "processes"}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

def code_cells(notebook):
    "Sources of the code cells, without magics and without nbdev's directives."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [re.sub(r"^(%|#\|).*\n?", "", source, flags=re.M) for source in sources]

def page_of(notebook):
    "The name of the notebook's module; its own where it has none."
    found = re.search(r'#\| default_exp (\w+)', notebook.read_text(encoding="utf-8"))
    return found[1] if found else notebook.stem

PAGES = {page_of(nb): nb for nb in sorted((ROOT/"nbs").glob("*.ipynb"))}

def density(function, lines):
    "Syntax nodes of a function's body for each of its lines that holds code: no docstring, no blank, no comment."
    has_docstring = ast.get_docstring(function, clean=False) is not None
    body = function.body[1:] if has_docstring else function.body
    if not body: return 0.
    span = lines[body[0].lineno - 1:body[-1].end_lineno]
    held = [line for line in span if line.strip() and not line.strip().startswith("#")]
    nodes = [n for statement in body for n in ast.walk(statement) if isinstance(n, (ast.expr, ast.stmt))]
    return len(nodes)/len(held)

def densities(page):
    "The density of each function of a module, methods and nested ones included, the densest first."
    path = ROOT/"contrastive_nb"/f"{page}.py"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    found = [(density(f, text.splitlines()), f.name) for f in functions]
    return sorted(found, reverse=True)

def definitions(source): return [n for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]

def measure(page):
    "The yardstick's five numbers."
    cells = code_cells(PAGES[page])
    lines = [[line for line in source.splitlines() if line.strip()] for source in cells]
    falling = [d for d, _ in densities(page)] or [0.]
    rank = max(0, len(falling) - 1 - int(.9*len(falling)))
    return {"median": round(median(falling), 1), "p90": round(falling[rank], 1),
        "longest cell": max(map(len, lines)), "definitions": max(len(definitions(source)) for source in cells),
        "long lines": sum(len(line) > 120 for cell in lines for line in cell)}

def shapes(source):
    "Shapes that hide a thought in a corner of a line, each with its code."
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if (token.type, token.string) == (tokenize.OP, ";"): yield "a semicolon", token.line
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, COMPREHENSIONS):
            inner = [n for n in ast.walk(node) if isinstance(n, COMPREHENSIONS) and n is not node]
            if any(isinstance(n, ast.Lambda) for i in inner for n in ast.walk(i)):
                yield "a lambda in a comprehension in a comprehension", ast.unparse(node)
            if any(isinstance(g.iter, (ast.List, ast.Tuple)) and len(g.iter.elts) == 1 for g in node.generators):
                yield "an assignment as a loop over one thing", ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            spread = [a.value for a in node.args if isinstance(a, ast.Starred)]
            if any(isinstance(a, (ast.List, *COMPREHENSIONS)) for a in spread): yield "rows unzipped as made", ast.unparse(node)

def ratchet(): return json.loads(RATCHET.read_text(encoding="utf-8"))

@pytest.mark.parametrize("page", PAGES)
def test_one_thought_a_line(page):
    found, allowed = measure(page), LIMITS if page in FINISHED else ratchet().get(page, LIMITS)
    worse = {what: (found[what], allowed[what]) for what in LIMITS if found[what] > allowed[what]}
    densest = ", ".join(f"{name} {d:.1f}" for d, name in densities(page)[:5])
    assert not worse, f"{page}: (found, allowed) {worse}; the densest functions: {densest}"

@pytest.mark.parametrize("page", sorted(FINISHED))
def test_no_thought_hides(page):
    assert not [shape for source in code_cells(PAGES[page]) for shape in shapes(source)]

def test_each_page_is_finished_or_in_the_ratchet():
    assert FINISHED <= set(PAGES)
    assert set(ratchet()) == set(PAGES) - FINISHED, "`python tests/test_house.py --lower` drops the finished ones"

@pytest.mark.parametrize("source, count", [
    ("a = 1; b = 2", 1), ("a = ';' # ;", 0),
    ("[[f(lambda: y) for y in x] for x in z]", 1), ("[f(lambda: x) for x in z]", 0), ("sorted([x for x in z], key=lambda x: x)", 0),
    ("[h(x) for h in [f(y)] for x in z]", 1), ("[h for h in (f(y),)]", 1), ("[h for h in (f, g)]", 0),
    ("a, b = zip(*[(*f(x), g(x)) for x in z])", 1), ("a, b = zip(*rows)", 0)])
def test_the_shapes_are_seen(source, count): assert len(list(shapes(source))) == count

def lower():
    "Rewrite the values that fell, and drop the pages that are finished or gone."
    kept = {page: allowed for page, allowed in ratchet().items() if page in set(PAGES) - FINISHED}
    for page, allowed in kept.items():
        found = measure(page)
        kept[page] = {what: min(allowed[what], found[what]) for what in LIMITS}
    rows = [f"{json.dumps(page)}: {json.dumps(values)}" for page, values in sorted(kept.items())]
    RATCHET.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")

if __name__ == "__main__":
    if sys.argv[1:] != ["--lower"]: sys.exit(f"usage: python tests/test_house.py --lower\n\n{__doc__}")
    lower()
