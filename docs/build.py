"""Builds the site: `python docs/build.py` reads nbs/*.ipynb and writes docs/_site.

Three steps, none of which runs a cell (the outputs stored in the notebooks are shown) or asks another host:

1. nbdev's processors, those of its `proc_nbs`, drop the hidden cells of a notebook and add a `show_doc` cell per exported name;
2. this file turns the directives and cells that they leave into what Sphinx reads, and writes docs/_src:
   - a cell marked `exporti`, which exports no public name, is printed: a settling function as it stands, a frame or a figure folded;
   - the front matter becomes a heading, with the notebook's number, and a subtitle;
   - `label`, `fig-cap` and `fig-alt` become a numbered figure with caption and alternative text;
   - `echo: false`, `hide_input`, `code-fold`, `output: false` and `include: false` become cell tags;
   - `show_doc(name)` becomes a `py:function` or `py:class` entry, read from the imported package: signature, docstring and
     a table of the docments, or only the signature where `exports` shows the source below it;
   - `` `name` `` in the text becomes a link to that entry;
   - the table of contents and the page of all public names are made from the notebooks that exist;
   - nbs/figures, pictures that a page cannot make without data, is copied;
3. Sphinx builds docs/_src with docs/conf.py, warnings being errors.

A directive that this file does not know, a picture without `fig-alt`, and output on stderr stop the build with a message."""
import argparse, ast, inspect, json, re, shutil, struct, subprocess, sys
from base64 import b64decode
from copy import deepcopy
from functools import cache
from importlib import import_module
from importlib.metadata import files
from itertools import groupby
from pathlib import Path

import yaml
from fastcore.docments import docments
from fastcore.nbio import read_nb
from nbdev.processors import FilterDefaults, add_links, exec_show_docs

PACKAGE = "contrastive_nb"
PARTS = {"Rooms": range(0, 10), "Chapters": range(10, 60), "Experiments": range(60, 90), "Claims": range(90, 100)}
IGNORED = {"peers", "exports", "export", "exporti", "eval", "warning", "message", "slow", "notest", "code-summary", "fig-align"}
KNOWN = IGNORED | {"label", "fig-cap", "fig-alt", "echo", "hide_input", "hide_output", "code-fold", "output", "include"}

# ---- reading

class Processors(FilterDefaults):
    "nbdev's processors without the two that this file replaces: one executes exported cells, one links names to nbdev's own site."
    def base_procs(self): return [p for p in super().base_procs() if p not in (add_links, exec_show_docs)]

def split_directives(source: str) -> tuple[dict, str]:
    "The `#| key: value` lines that open a cell, and the rest; quotes are stripped, and a backslash stays what it is."
    found, lines = {}, source.splitlines()
    while lines and (m := re.match(r"#\|\s*([\w-]+):?\s*(.*?)\s*$", lines[0])):
        key, value = m.groups()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'": value = value[1:-1].replace("\\\\", "\\").replace('\\"', '"')
        found[key] = value
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")

def defined(source: str) -> list[str]:
    "Names of the functions and classes that a cell defines at top level."
    try: return [o.name for o in ast.parse(source).body if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
    except SyntaxError: return []

def imports_only(source: str) -> bool:
    "A cell of imports, which the page folds."
    try: body = ast.parse(source).body
    except SyntaxError: return False
    return bool(body) and all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in body)

def print_evidence(cell: dict):
    "A cell that exports without a public name is shown: a settling function as it stands, what computes its frames and figures folded."
    if cell["cell_type"] != "code" or not re.match(r"#\|\s*exporti\b", cell["source"]): return
    rest = cell["source"].split("\n", 1)[1]
    cell["source"] = rest if "@settles(" in rest else f"#| code-fold: true\n{rest}"

def shown(cell: dict) -> str | None:
    "The name that a `show_doc` cell documents."
    m = re.match(r"show_doc\(([\w.]+)", split_directives(cell["source"])[1]) if cell["cell_type"] == "code" else None
    return m and m.group(1)

class Page:
    "One processed notebook with what the others need to know of it."
    def __init__(self, path: Path):
        self.name, self.problems = path.stem, []
        nb = read_nb(path)
        m = re.search(r"^#\|\s*default_exp\s+([\w.]+)", "\n".join(c.source for c in nb.cells), re.M)
        for c in nb.cells: print_evidence(c)
        Processors()(nb)
        self.cells = [c for c in nb.cells if "source" in c]
        self.module = m and f"{PACKAGE}.{m.group(1)}"
        self.title, self.subtitle = path.stem, ""
        if self.cells and self.cells[0]["cell_type"] == "raw" and self.cells[0]["source"].startswith("---"):
            front = yaml.safe_load(self.cells.pop(0)["source"].strip().strip("-")) or {}
            self.title, self.subtitle = front.get("title", path.stem), front.get("description", "")
        self.label = m.group(1) if (m := re.match(r"(\d\d[a-z]?)_", path.stem)) else None
        self.number = int(self.label[:2]) if self.label else None
        if self.module: self.in_order()
        self.documented = [n for n in map(shown, self.cells) if n] if self.module else []

    def in_order(self):
        "Entries of one cell in the order of their definitions; nbdev adds them last first."
        line = {n: getattr(definition(self.module, n), "lineno", 0) for n in map(shown, self.cells) if n}
        for run, group in groupby(list(enumerate(self.cells)), lambda c: shown(c[1]) is not None):
            at = [i for i, _ in group]
            if run: self.cells[at[0]:at[-1] + 1] = sorted((self.cells[i] for i in at), key=lambda c: line[shown(c)])

    @property
    def heading(self): return f"{self.label}\u2002{self.title}" if self.label else self.title

# ---- names: signature, docstring, docments

def resolve(module: str, name: str):
    "The object of a name."
    obj = import_module(module)
    for part in name.split("."):
        if not hasattr(obj, part): sys.exit(f"{module} has no {name}, which its notebook exports: run nbdev-export")
        obj = getattr(obj, part)
    return obj

def as_text(doc: str) -> str:
    "A docstring as Markdown: only code, mathematics and roles keep a meaning."
    parts = re.split(r"((?:\{[\w:]+\})?`[^`]*`|\$[^$\n]+\$)", inspect.cleandoc(doc or ""))
    return "".join(p if i % 2 else re.sub(r"([*<\[\]{}|])", r"\\\1", p) for i, p in enumerate(parts))

def summary(module: str, name: str) -> str:
    "The first paragraph of a docstring; of a constant, what the source writes."
    obj = resolve(module, name)
    if inspect.isclass(obj) or callable(obj): return as_text((obj.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "))
    for node in tree(module):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in [getattr(t, "id", None) for t in getattr(node, "targets", [getattr(node, "target", None)])]:
            value = ast.unparse(node.value).replace("`", "'") if node.value else ""
            return f"`{value}`" if 0 < len(value) < 60 else f"a {type(obj).__name__}"
    return ""

@cache
def tree(module: str) -> list[ast.stmt]:
    "Syntax tree of an imported module."
    return ast.parse(inspect.getsource(import_module(module))).body

def definition(module: str, name: str):
    "Syntax tree of a function, class or method; `None` for a name that is assigned."
    body = tree(module)
    for part in name.split("."): # a method added by fastcore's `patch` stands at top level
        node = next((o for b in (body, tree(module)) for o in b if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and o.name == part), None)
        if node is None: return None
        body = node.body
    return node

def arguments(node, types: bool = True) -> str:
    "Arguments as the source writes them, `Tensor` and not `torch.Tensor`; without types where the source follows."
    if isinstance(node, ast.ClassDef):
        init = next((o for o in node.body if isinstance(o, ast.FunctionDef) and o.name == "__init__"), None)
        if init is None: # a dataclass: its fields
            fields = [o for o in node.body if isinstance(o, ast.AnnAssign)]
            return "({})".format(", ".join(ast.unparse(o.target) + ": " + ast.unparse(o.annotation) + (f" = {ast.unparse(o.value)}" if o.value else "") for o in fields)) if fields else ""
        node = init
    a = deepcopy(node.args)
    for args in (a.posonlyargs, a.args):
        if args and args[0].arg in ("self", "cls"): args.pop(0)
    if not types:
        for o in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg):
            if o: o.annotation = None
        return f"({ast.unparse(a)})"
    return f"({ast.unparse(a)})" + (f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else "")

def parameter_table(obj) -> str:
    "Docments as a two-column table: parameter, meaning."
    rows = [(n, d) for n, d in docments(obj, args_kwargs=True).items() if d and n not in ("self", "cls")]
    if not rows: return ""
    text = lambda d: as_text(" ".join(d.split()))
    body = "\n".join(f"  * - {'*returns*' if n == 'return' else f'`{n}`'}\n    - {text(d)}" for n, d in rows)
    return ":::{list-table}\n:class: docments\n:widths: auto\n\n" + re.sub("^  ", "", body, flags=re.M) + "\n:::\n"

def entry(module: str, name: str, source_follows: bool, again: bool) -> str:
    "The documentation entry of one exported name."
    obj, kind = resolve(module, name), "function"
    if inspect.isclass(obj): kind = "class"
    elif "." in name: kind = "method"
    elif not callable(obj): kind = "data"
    node = definition(module, name)
    options = f":module: {module}\n" + (":no-index:\n" if again else "")
    body = []
    if not source_follows and node is not None:
        body = [as_text(obj.__doc__), parameter_table(obj)]
        if kind == "class":
            methods = [o for o in node.body if isinstance(o, ast.FunctionDef) and not o.name.startswith("_") and ast.get_docstring(o)]
            body += [f":::{{py:{'property' if any(ast.unparse(d) == 'property' for d in o.decorator_list) else 'method'}}} {name}.{o.name}"
                     + ("" if any(ast.unparse(d) == "property" for d in o.decorator_list) else arguments(o))
                     + f"\n:module: {module}\n" + (":no-index:\n" if again else "") + f"\n{as_text(ast.get_docstring(o))}\n:::" for o in methods]
    text = f"::::::{{py:{kind}}} {name}{arguments(node, types=not source_follows) if node else ''}\n{options}\n" + "\n\n".join(b for b in body if b) + "\n::::::"
    return f":::::::{{container}} with-source\n{text}\n:::::::" if source_follows else text

# ---- writing

def link_names(text: str, targets: dict[str, str]) -> str:
    "Turns `` `name` `` into a link to its entry, outside code blocks and headings."
    names = "|".join(sorted(map(re.escape, targets), key=len, reverse=True))
    if not names: return text
    link = re.compile(rf"(?<![`}}\[\\\w])`({names})((?:\(\))?)`(?![`\]])")
    lines, fence = text.split("\n"), None
    for i, line in enumerate(lines):
        if m := re.match(r"\s*(```+|~~~+)", line): fence = None if fence and m.group(1).startswith(fence) else fence or m.group(1)
        elif not fence:
            lines[i] = line if line.startswith("#") else link.sub(lambda m: f"{{py:obj}}`{m[1]}{m[2]} <{targets[m[1]]}>`", line)
    return "\n".join(lines)

def picture_width(png) -> str | None:
    "The width that a PNG was drawn for: a figure of 4.5 inches is as wide as 4.5 inches of text, whatever its resolution."
    head = b64decode("".join(png or ""))[:200]
    at = head.find(b"pHYs")
    return f"{110*struct.unpack('>I', head[16:20])[0]/(struct.unpack('>I', head[at + 4:at + 8])[0]*.0254):.0f}px" if at > 0 else None

VERDICTS = "holds-with-correction|holds|not-reproduced|refuted|not-run"

def dress(data: dict) -> dict:
    "Columns of words in a pandas table are set flush left, a missing value is a dash, and the verdicts of claims get their colours."
    data = dict(data)
    if "text/markdown" in data:
        data["text/markdown"] = re.sub(rf"\*({VERDICTS})\*(?!\*)", r'<span class="verdict-\1">\1</span>', "".join(data["text/markdown"]))
    html = "".join(data.get("text/html", ""))
    if 'class="dataframe"' in html:
        row, cell = re.compile(r"<tr.*?</tr>", re.S), re.compile(r"<(t[hd])([^>]*)>(.*?)</t[hd]>", re.S)
        rows = [[c[2].strip() for c in cell.findall(r)] for r in row.findall(html.split("<tbody>")[-1])]
        number = re.compile(r"[-+\u2212]?[\d.,]*(e[-+]?\d+)?%?|nan|NaN|inf|-inf|None")
        width = len(rows[0]) if rows else 0 # an empty table has only a head
        words = {i - len(r) for r in rows for i, c in enumerate(r) if i - len(r) > -width and not number.fullmatch(c)} # from the right: below a cell that spans rows a row is shorter
        def set_row(m):
            i = iter(range(-len(cell.findall(m[0])), 0))
            return cell.sub(lambda c: f'<{c[1]}{c[2]}{" class=text" if next(i) in words else ""}>{c[3]}</{c[1]}>', m[0])
        html = re.sub(r"<td([^>]*)>(?:NaN|None)</td>", "<td\\1>\u2013</td>", row.sub(set_row, html))
        data["text/html"] = re.sub(rf"<td([^>]*)>({VERDICTS})</td>", r'<td\1><span class="verdict-\2">\2</span></td>', html)
    return data

def code_cell(page: Page, cell: dict) -> dict | None:
    "A code cell with its directives turned into tags and figure metadata."
    d, source = split_directives(cell["source"])
    where = f"{page.name}: cell `{source.splitlines()[0] if source else ''}`"
    if unknown := d.keys() - KNOWN: page.problems.append(f"{where}: unknown directive {sorted(unknown)}; known: {sorted(KNOWN)}")
    if d.get("include") == "false": return None
    outputs = [dict(o, execution_count=None) if o["output_type"] == "execute_result" else o for o in cell.get("outputs", [])]
    outputs = [dict(o, data=dress(o["data"])) if "data" in o else o for o in outputs]
    if re.search(r"^#\|", source, re.M): page.problems.append(f"{where}: a directive below the first lines of a cell is only a comment")
    if warned := [o for o in outputs if o.get("name") == "stderr"]: page.problems.append(f"{where}: prints to stderr: {''.join(warned[0]['text']).strip()[:200]}")
    pictures = [o for o in outputs if any(k.startswith("image/") for k in o.get("data", {}))]
    if pictures and not d.get("fig-alt"): page.problems.append(f"{where}: shows a picture but has no fig-alt")
    if d.get("label") and len(pictures) > 1: page.problems.append(f"{where}: one label for {len(pictures)} pictures")
    if (d.get("label", "").startswith("fig-") or d.get("fig-cap")) and not (d.get("label") and d.get("fig-cap")): page.problems.append(f"{where}: a figure needs both label and fig-cap")
    width = picture_width(pictures[0]["data"].get("image/png")) if pictures else None
    tags, options = [], {}
    if d.get("echo") == "false" or "hide_input" in d: tags.append("remove-input")
    elif d.get("code-fold", "") in ("true", "hide"): tags.append("hide-input")
    elif imports_only(source):
        tags.append("hide-input")
        options = {"code_prompt_show": "Imports", "code_prompt_hide": "Imports"}
    if d.get("output") == "false" or "hide_output" in d: tags.append("remove-output")
    if d.get("fig-alt"): options["image"] = {"alt": d["fig-alt"]} | ({"width": width} if width else {})
    if pictures and d.get("fig-cap"): options["figure"] = {"name": d.get("label"), "caption": d["fig-cap"]}
    meta = {"tags": tags} | ({"mystnb": options} if options else {})
    return {"cell_type": "code", "id": cell["id"], "metadata": meta, "execution_count": None, "source": source, "outputs": outputs}

def markdown(source: str, id: str) -> dict: return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}

def render(page: Page, targets: dict[str, str], done: set[str]) -> list[dict]:
    "The cells of a page as Sphinx reads them."
    head = f"# {page.heading}\n" + (f"\n:::{{container}} subtitle\n{page.subtitle}\n:::\n" if page.subtitle else "")
    if page.module: head += f"\n:::{{py:currentmodule}} {page.module}\n:::\n"
    cells, with_source = [markdown(head, "title")], set()
    for c in page.cells: # the names whose source the page shows
        if c["cell_type"] == "code" and "exports" in split_directives(c["source"])[0]: with_source |= set(defined(c["source"]))
    def document(name, id):
        full = f"{page.module}.{name}"
        cells.append(markdown(entry(page.module, name, name in with_source, full in done), id))
        done.add(full)
    for c in page.cells:
        if c["cell_type"] == "markdown":
            if not c["source"].startswith("<!-- WARNING: THIS FILE WAS AUTOGENERATED"): cells.append(markdown(link_names(c["source"], targets), c["id"]))
        elif c["cell_type"] == "code":
            if name := shown(c):
                if name not in with_source: document(name, c["id"])
            else:
                if "exports" in split_directives(c["source"])[0]:
                    for name in defined(c["source"]):
                        if name in page.documented: document(name, f"{c['id']}-{name}"[:64])
                if cell := code_cell(page, c): cells.append(cell)
    return cells

def contents(pages: list[Page], extra: list[str], interactive: list[str]) -> str:
    "The table of contents: one caption a part, in the order of the numbers."
    groups = {part: [p.name for p in pages if p.number in numbers] for part, numbers in PARTS.items()} | {"Interactive": interactive, "Reference": extra}
    return "\n\n".join(f"```{{toctree}}\n:hidden:\n:caption: {part}\n\n" + "\n".join(names) + "\n```" for part, names in groups.items() if names)

def index_of_names(pages: list[Page], targets: dict[str, dict]) -> str:
    "One page with every public name, its first line, and the notebook that explains it."
    text = "# Public names\n\n:::{container} subtitle\nWhat each module exports; a name leads to its entry, a title to the notebook that explains it\n:::\n"
    for page in pages:
        names = page.module and getattr(import_module(page.module), "__all__", [])
        if not names: continue
        text += f"\n## `{page.module}`\n\n[{page.heading}]({page.name}.ipynb)" + (f": {page.subtitle}" if page.subtitle else "") + "\n\n"
        text += ":::{list-table}\n:class: names\n:widths: auto\n\n"
        for n in sorted(names, key=str.lower):
            full = f"{page.module}.{n}"
            text += f"* - {f'{{py:obj}}`{n} <{full}>`' if n in page.documented else f'`{n}`'}\n  - {summary(page.module, n)}\n"
        text += ":::\n"
    return text

def put(path: Path, text: str):
    "Writes a file only where it changes, so that Sphinx reads only what is new."
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text: path.write_text(text, encoding="utf-8")

def prepare(root: Path) -> list[Page]:
    "Steps 1 and 2: nbs/*.ipynb, docs/*.md and docs/interactive/*.md to docs/_src."
    src = root/"docs"/"_src"
    pages = [Page(p) for p in sorted((root/"nbs").glob("*.ipynb"))]
    chapters = [p for p in pages if p.number is not None]
    every = {}
    for p in chapters:
        for n in p.documented: every.setdefault(n, []).append(f"{p.module}.{n}")
    unique = {n: full[0] for n, full in every.items() if len(set(full)) == 1}
    written, done = set(), set()
    def write(name, text): put(src/name, text); written.add(name)
    guides = sorted((root/"docs").glob("*.md"))
    interactive = sorted((root/"docs"/"interactive").glob("*.md"))
    for g in guides + interactive: write(g.relative_to(root/"docs").as_posix(), g.read_text(encoding="utf-8"))
    write("names.md", index_of_names(chapters, unique))
    toc = contents(chapters, ["names"] + [g.stem for g in guides], ["interactive/index"]*any(g.stem == "index" for g in interactive))
    for p in pages:
        own = {n: f"{p.module}.{n}" for n in p.documented} # elsewhere a plain word like `train` may mean a command or an argument
        cells = render(p, {n: full for n, full in unique.items() if re.search("[A-Z_]", n)} | own, done)
        if p.name == "index": cells.append(markdown(toc, "contents"))
        write(f"{p.name}.ipynb", json.dumps(dict(cells=cells, nbformat=4, nbformat_minor=5, metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}), indent=1))
    if not any(p.name == "index" for p in pages):
        rows = "".join(f"* - [{p.heading}]({p.name}.ipynb)\n  - {p.subtitle}\n" for p in chapters)
        write("index.md", f"# {PACKAGE}\n\n" + (f":::{{list-table}}\n:widths: auto\n\n{rows}:::\n\n" if rows else "") + toc + "\n")
    for old in (*src.iterdir(), *(src/"interactive").glob("*")):
        if old.is_file() and old.relative_to(src).as_posix() not in written: old.unlink()
    for picture in (root/"nbs"/"figures").glob("*.png"):
        (src/"figures").mkdir(exist_ok=True)
        shutil.copyfile(picture, src/"figures"/picture.name)
    if problems := [q for p in pages for q in p.problems]: sys.exit("\n".join(problems))
    return pages

def copy_mathjax(static: Path):
    "MathJax as one file, out of the package sphinx-mathjax-offline (used as a carrier; any MathJax 3 `tex-svg-full.js` does)."
    file = next(f for f in files("sphinx-mathjax-offline") if f.name == "tex-svg-full.js")
    static.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file.locate(), static/"mathjax.js")

def main():
    parser = argparse.ArgumentParser(description="Build the site into docs/_site.")
    parser.add_argument("--clean", action="store_true", help="forget what earlier builds left")
    args = parser.parse_args()
    root = Path.cwd()
    if not (root/"docs"/"conf.py").exists(): sys.exit("run this from the top of the repository: python docs/build.py")
    docs = root/"docs"
    if args.clean:
        shutil.rmtree(docs/"_src", ignore_errors=True)
    prepare(root)
    copy_mathjax(docs/"_src"/"_mathjax")
    shutil.rmtree(docs/"_site", ignore_errors=True) # Sphinx leaves the pages of notebooks that are gone
    code = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", str(docs), "-d", str(docs/"_src"/"_doctrees"),
                           str(docs/"_src"), str(docs/"_site")]).returncode
    if code: sys.exit(code)
    n = len(list((docs/"_site").glob("*.html")))
    print(f"{n} pages: {(docs/'_site'/'index.html').as_uri()}")

if __name__ == "__main__": main()
