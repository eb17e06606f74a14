"Sphinx configuration of the site; docs/build.py writes the pages (docs/_src) that it reads."
import re
import tomllib
from pathlib import Path

import contrastive_nb
from docutils import nodes
from sphinx.environment.collectors.toctree import TocTreeCollector

here = Path(__file__).parent
meta = tomllib.loads((here.parent/"pyproject.toml").read_text(encoding="utf-8"))["project"]

project, author, release = "contrastive_nb", "The contrastive_nb authors", contrastive_nb.__version__
copyright = author
extensions = ["myst_nb", "sphinx_proof", "sphinxcontrib.bibtex", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_doctrees", "_mathjax", "jupyter_execute"]

# Pages: the notebooks as they are stored; the site runs nothing
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst" # what a cell displays as Markdown may hold tables and mathematics
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"] # what jupyterlab-myst renders too
myst_heading_anchors = 3
myst_dmath_double_inline = True
add_module_names = False
python_maximum_signature_line_length = 72
toc_object_entries = False
suppress_warnings = ["ref.python"] # a class name that two modules share, in the annotation of a third
bibtex_bibfiles, bibtex_default_style, bibtex_reference_style = [str(here/"references.bib")], "plain", "author_year"

# One numbering for statements, and the notebook's number before each: Theorem 10.2, Figure 10.1, equation (10.3)
numfig = math_numfig = True
numfig_secnum_depth = 1
numfig_format = {"figure": "Figure %s", "table": "Table %s"}
prf_realtyp_to_countertyp = {kind: "theorem" for kind in ("lemma", "proposition", "corollary", "definition", "remark", "example",
                                                           "assumption", "conjecture", "observation", "property", "criterion")}

# Look. Everything comes from files beside the pages: system fonts, MathJax copied by build.py, no other host
html_theme = "furo"
html_title = project
html_static_path = ["_static", "_src/_mathjax"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = html_show_search_summary = html_show_sphinx = False
html_domain_indices = html_use_index = False
html_show_copyright = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
mathjax_path = "mathjax.js"
# No menu, whose extras would be fetched; an unknown macro is an error, which the browser test finds, and not a red word
mathjax3_config = {"tex": {"packages": {"[-]": ["noundefined", "noerrors"]}}, "options": {"enableMenu": False}, "svg": {"fontCache": "global"}}
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f4e79", "color-brand-content": "#1f4e79", "color-brand-visited": "#1f4e79"},
    "dark_css_variables": {"color-brand-primary": "#8ab8e6", "color-brand-content": "#8ab8e6", "color-brand-visited": "#8ab8e6"},
}
if repository := meta.get("urls", {}).get("Repository"): html_theme_options["footer_icons"] = [{"name": "Source", "url": repository, "html": "Source", "class": ""}]

def chapter_numbers(app, env):
    "Numbers figures, tables, equations and statements by the notebook that holds them, after Sphinx has counted through."
    env.toc_secnumbers = {doc: {"": (int(doc[:2]),)} for doc in env.found_docs if doc[:2].isdigit()}
    changed = TocTreeCollector().assign_figure_numbers(env)
    env.toc_secnumbers = {}
    return changed

def numbers_in_sources(app, doctree, page):
    "A docstring in a source that the page shows names equations and statements by label; the reader sees their numbers."
    env = app.env
    def numbered(m):
        kind, label = m.groups()
        if kind == "eq": doc, counter, label, words = env.get_domain("math").equations[label][0], "displaymath", nodes.make_id(f"equation-{label}"), "({})"
        else: doc, counter, words = env.proof_list[label]["docname"], env.proof_list[label]["countertype"], env.proof_list[label]["realtype"].title() + " {}"
        return words.format(".".join(map(str, env.toc_fignumbers[doc][counter][label])))
    for block in doctree.findall(nodes.literal_block):
        if (text := re.sub(r"\{(eq|prf:ref)\}`([\w-]+)`", numbered, block.astext())) != block.astext():
            block.rawsource, block.children = text, [nodes.Text(text)]

def keep_punctuation(app, doctree, page):
    "No line starts with the comma after a formula, or ends with the bracket before it."
    for math in list(doctree.findall(nodes.math)):
        parent, i = math.parent, math.parent.index(math)
        text = lambda j: parent[j].astext() if 0 <= j < len(parent) and isinstance(parent[j], nodes.Text) else ""
        opening, closing = re.search(r"[(\[]*$", text(i - 1))[0], re.match(r"[.,;:!?)\]]*", text(i + 1))[0]
        if opening: parent[i - 1] = nodes.Text(text(i - 1)[:-len(opening)])
        if closing: parent[i + 1] = nodes.Text(text(i + 1)[len(closing):])
        if opening or closing: parent[i] = nodes.inline("", "", nodes.Text(opening), math, nodes.Text(closing), classes=["keep"])

def interactive_files(app, page, template, context, doctree):
    "Script and style of a page in docs/interactive: what all share, and the page's own. From docs/_static, never from another host: the browser test refuses it."
    folder, _, name = page.partition("/")
    if folder != "interactive" or name == "index": return
    app.add_css_file("interactive.css")
    for script in ("interactive.js", f"interactive/{name}.js"): app.add_js_file(script, loading_method="defer")

def setup(app):
    app.connect("env-get-updated", chapter_numbers, priority=900)
    app.connect("doctree-resolved", numbers_in_sources)
    app.connect("doctree-resolved", keep_punctuation)
    app.connect("html-page-context", interactive_files)
