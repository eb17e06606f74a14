"The reach of a function: which changes its digest notices, which it does not, and whether everything that runs was reached."
import ast, functools, gc, runpy, shutil, subprocess, sys, textwrap, threading
from functools import partial
from importlib import import_module
from itertools import count

import pytest

from contrastive_nb.ledger import PACKAGE, digest
from contrastive_nb.reach import _map, code_digest, code_digest_of, executed_parts, free_names, normal_form, reach, registered, unreached

TOY = {
    "base": """
        "The ground floor."
        from math import sin
        SCALE = 2.0
        TABLE = {"one": sin}
        KINDS = []

        def settles(key, tier="fast", *, paper=""):
            return lambda f: f

        def member(f):
            "Put a function on the list."
            KINDS.append(f)
            return f

        def twice(f): return lambda x: 2*f(x)

        class Base:
            width:int = 3
            def size(self): return self.width

        def wave(x, shift=1): return SCALE*sin(x + shift)
        def other(x): return x
        TABLE["wave"] = wave
        TABLE |= {"last": lambda x: x - 1}
        """,
    "middle": """
        from . import base
        from .base import Base, twice, wave as swell, other as calm
        from .base import member

        class Heir(Base):
            def run(self, x): return self.size()*swell(x)

        @member
        def kind(x): return x/2

        @twice
        def doubled(x): return x

        def quiet(x): return calm(x)
        def loud(x): return swell(x)
        def by_alias(x): return base.wave(x)
        def by_text(name): return getattr(base, name)
        """,
    "top": """
        from .base import KINDS, TABLE, settles
        from . import middle
        from .middle import Heir, doubled, kind, loud, quiet

        @settles("held", paper="printed")
        def held(x): return Heir().run(x)
        @settles("looked", "slow")
        def looked(name): return TABLE[name]
        @settles("listed", tier="slow")
        def listed(x): return [f(x) for f in KINDS]
        def direct(x): return kind(x)
        def called(x): return loud(x)
        def calm(x): return quiet(x)
        def dressed(x): return doubled(x)
        def aliased(x): return middle.by_alias(x)
        def texted(x): return middle.by_text(x)
        def local(x):
            from .middle import by_alias as far
            return far(x)
        def lonely(wave, loud=1):
            calm = [quiet for quiet in wave]
            return calm, loud, [doubled := x for x in wave], doubled
        """,
}
NAMES = ("held", "looked", "listed", "direct", "called", "calm", "dressed", "aliased", "texted", "local", "lonely")
WAVE = {"held", "looked", "called", "aliased", "texted", "local"} # what leads to `wave`

@pytest.fixture
def package(tmp_path):
    numbers = count()
    def write(changes=(), **modules):
        "The toy, with (module, old text, new text) changed."
        (folder := tmp_path/f"{next(numbers)}"/"toy").mkdir(parents=True)
        texts = {**{name: textwrap.dedent(text) for name, text in TOY.items()}, **{name: textwrap.dedent(text) for name, text in modules.items()}}
        for module, old, new in changes:
            assert texts[module].count(old) == 1, old
            texts[module] = texts[module].replace(old, new)
        for name, text in texts.items(): (folder/f"{name}.py").write_text(text)
        (folder/"__init__.py").write_text("")
        return folder
    return write

def digests(folder): return {name: code_digest("top", name, folder) for name in NAMES}

def changed(package, *changes):
    "The functions of `top` whose digests a change changes."
    old, new = digests(package()), digests(package(changes))
    return {name for name in NAMES if old[name] != new[name]}

@pytest.mark.parametrize("change", [
    ("base", "def wave(x, shift=1): return SCALE*sin(x + shift)", "# a wave\ndef wave(\n    x:float, # where\n    shift:int=1,\n)->float:\n    'Once.'\n    y:float\n    return (SCALE *\n        sin(x + shift))"),
    ("base", '"Put a function on the list."', ""),
    ("base", '"The ground floor."', ""),
    ("base", "SCALE = 2.0", "SCALE:float = 2.0 # so"),
    ("top", '@settles("held", paper="printed")', '@settles("held", "full", paper="not printed")'),
    ("top", "def calm(x): return", "def calm(x):\n    pass\n    'calm'\n    return"),
    ("middle", "from . import base", "import os, sys\nfrom . import base"),
], ids=["all hints and comments", "documentation", "title", "annotated constant", "label", "nothing done", "import"])
def test_what_computes_nothing_changes_nothing(package, change): assert changed(package, change) == set()

@pytest.mark.parametrize("change, expected", [
    (("base", "SCALE = 2.0", "SCALE = 2.5"), WAVE),
    (("base", "shift=1)", "shift=2)"), WAVE),
    (("base", "sin(x + shift)", "sin(x - shift)"), WAVE),
    (("base", "def other(x): return x", "def other(x): return -x"), {"calm", "texted"}),
    (("base", "return self.width", "return self.width + 1"), {"held", "texted"}),
    (("base", "width:int = 3", "width:int = 4"), {"held", "texted"}),
    (("base", "width:int = 3", "width:float = 3"), {"held", "texted"}),
    (("middle", "return self.size()*swell(x)", "return self.size() + swell(x)"), {"held"}),
    (("base", '{"one": sin}', '{"two": sin}'), {"looked", "texted"}),
    (("base", "lambda x: x - 1", "lambda x: x + 1"), {"looked", "texted"}),
    (("base", 'TABLE["wave"] = wave', 'TABLE["wave"] = other'), {"looked", "texted"}),
    (("middle", "return x/2", "return x/3"), {"listed", "direct", "texted"}),
    (("base", "KINDS.append(f)", "KINDS.append(twice(f))"), {"listed", "direct", "texted"}),
    (("base", "KINDS = []", "KINDS = [twice]"), {"listed", "texted"}),
    (("base", "TABLE |= {", "TABLE |= {**TABLE, "), {"looked", "texted"}),
    (("base", "lambda x: 2*f(x)", "lambda x: 3*f(x)"), {"dressed", "texted"}),
    (("middle", "@twice\n", ""), {"dressed"}),
    (("middle", "return base.wave(x)", "return base.other(x)"), {"aliased", "local"}),
    (("base", "from math import sin", "from math import cos as sin"), WAVE),
    (("middle", "wave as swell, other as calm", "wave as calm, other as swell"), {"held", "called", "calm"}),
    (("top", "import by_alias as far", "import quiet as far"), {"local"}),
    (("top", "calm = [quiet for quiet in wave]", "calm = [quiet for quiet in wave if quiet]"), {"lonely"}),
], ids=str)
def test_a_change_changes_what_reaches_it(package, change, expected): assert changed(package, change) == expected

def test_a_function_may_move(package):
    moved = package([("base", "def wave(x, shift=1): return SCALE*sin(x + shift)\n", ""), ("base", 'TABLE["wave"] = wave', "from .low import wave\nTABLE['wave'] = wave")],
        low="from math import sin\nfrom .base import SCALE\ndef wave(x, shift=1): return SCALE*sin(x + shift)")
    old, new = digests(package()), digests(moved)
    assert {name for name in NAMES if old[name] != new[name]} == set()

def test_a_new_function_in_a_module_that_is_used_as_a_whole(package):
    assert changed(package, ("base", "def other", "def fresh(x): return x\ndef other")) == {"texted"}

SHELF = "class Shelf(dict):\n  def put(self, f): self[f.__name__] = f\n  def get(self): return self\nTABLE = Shelf()\nPLAIN = {}\n"

@pytest.mark.parametrize("text", [
    "from .low import TABLE\n@TABLE.put\ndef filled(): pass",
    "from . import low\n@low.TABLE.put\ndef filled(): pass",
    "from .low import TABLE\nclass filled:\n  @TABLE.put\n  def f(self): pass",
    "from .low import TABLE\ndef filled(): pass\nfor name in 'ab':\n  if name: TABLE[name] = filled",
    "from .low import TABLE\ndef filled(): pass\nTABLE.get()['a'] = TABLE.put(filled)",
    "from .low import TABLE\ndef filled(): pass\nTABLE.setdefault('a', []).append(filled)",
    "from .low import TABLE\ndef filled(): pass\nTABLE.put(filled)",
    "from .low import TABLE as table\ndef filled(): pass\ntable.best = filled",
    "from . import low\ndef filled(): pass\nlow.TABLE |= {1: filled}",
    "from .low import put\ndef filled(): pass\nput(filled)",
    "from .low import put\ndef filled(): pass\nwith put(filled): pass",
    "from .low import Kind\nclass filled(Kind): pass",
    "from .low import Shelf\ndef filled(): pass\nShelf.more = filled",
])
def test_whatever_fills_a_table_belongs_to_it(package, text):
    low = SHELF + "def put(f): TABLE.put(f)\nclass Kind:\n  def __init_subclass__(cls): TABLE.put(cls)\ndef reader(): return TABLE\ndef apart(): return PLAIN"
    folder = package(low=low, high=text)
    assert "filled" in {part.name for part in reach("low", "reader", folder)}
    assert {part.name for part in reach("low", "apart", folder)} == {"apart", "PLAIN"}

def test_to_put_into_a_plain_container_is_not_to_read_it(package):
    folder = package(low=SHELF + "def plain(f): PLAIN[f] = f\ndef own(f): TABLE[f] = f\ndef reads(f): return PLAIN[f]")
    names = lambda name: {part.name for part in reach("low", name, folder)}
    assert names("plain") == {"plain"} and names("reads") == {"reads", "PLAIN"} and names("own") == {"own", "TABLE", "Shelf"}

def test_names_that_are_swapped(package):
    text = "from .one import g as a\nfrom .two import g as b\ndef f(x): return a(x) - b(x)"
    one, two = "def g(x): return x", "def g(x): return 2*x"
    old, new = package(one=one, two=two, high=text), package(one=two, two=one, high=text)
    assert reach("high", "f", old) == reach("high", "f", new) and code_digest("high", "f", old) != code_digest("high", "f", new)

def test_names_of_a_module_by_text(package):
    folder = package(low="def a(): pass\ndef f(name): return globals()[name]", high="import toy.low\nfrom toy import low as l\ndef g(): return toy.low.a\ndef h(): return vars(l)")
    names = lambda module, name: {part.name for part in reach(module, name, folder)}
    assert names("low", "f") == {"a", "f"} and names("high", "g") == {"a", "g"} and names("high", "h") == {"a", "f", "h"}

def test_an_imported_name_may_be_bound_anew(package):
    folder = package(low="def f(): pass\ndef twice(f): return f", high="from math import sin as f\nfrom .low import f, twice\nf = twice(f)\ndef g(): return f")
    assert {part.name for part in reach("high", "g", folder)} == {"f", "g", "twice"}
    assert code_digest("high", "g", folder) != code_digest("high", "g", package(low="def f(): return 1\ndef twice(f): return f", high=(folder/"high.py").read_text()))

def test_registered(package):
    folder = package()
    assert registered("settles", "key", package=folder) == {(name,): ("top", name) for name in ("held", "looked", "listed")}
    assert set(registered("settles", package=folder)) == {("held", "fast"), ("looked", "slow"), ("listed", "slow")}
    with pytest.raises(ValueError, match="both top.held and top.looked"): registered("settles", "key", package=package([("top", '"looked"', '"held"')]))
    with pytest.raises(ValueError, match="top.held: @settles needs literals"): registered("settles", package=package([("top", '"held",', "KINDS,")]))
    with pytest.raises(ValueError, match="0 functions of toy are called 'draws'"): registered("draws", package=folder)

def test_many_kinds_of_one_decorator(package):
    folder = package(top="def makes(*kinds, **more): return lambda f: f\n@makes('a', 'b-*', tolerance=1)\ndef f(): pass\n@makes('c')\ndef g(): pass")
    assert registered("makes", package=folder) == {("a", "b-*"): ("top", "f"), ("c",): ("top", "g")}

def test_errors_name_what_is_missing(package):
    folder = package()
    with pytest.raises(ValueError, match="no module 'tops' in toy; there is top"): reach("tops", "held", folder)
    with pytest.raises(ValueError, match="no name 'top.hold' in toy; there is top.held"): code_digest("top", "hold", folder)
    with pytest.raises(ValueError, match="top, line 1: `import \\*` hides"): reach("top", "f", package(top="from .base import *"))
    with pytest.raises(ValueError, match="no package at .*absent"): reach("top", "f", folder/"absent")
    for f in (lambda: 1, partial(print, 1), functools.cache(lambda: 1)):
        with pytest.raises(ValueError, match="no name at the top of a module"): code_digest_of(f)
    for f in (test_registered, len, shutil.rmtree):
        with pytest.raises(ValueError, match="is neither in contrastive_nb nor in a notebook"): code_digest_of(f)

@pytest.mark.parametrize("text, expected", [
    ("def f(a, /, b=c, *d, e=g, **h): return a, b, d, e, h, i", "c g i"),
    ("def f():\n  def g(): return x, y\n  x = 1\n  return g", "y"),
    ("def f():\n  x = 1\n  class C:\n    y = x\n    def m(self): return y\n  return C", "y"),
    ("def f():\n  x = 1\n  def g():\n    nonlocal x\n    x = 2\n    global y\n    y = x\n  return y", "y"),
    ("def f():\n  x = 1\n  def g():\n    global x\n    return x\n  return g", "x"),
    ("class C:\n  x = 1\n  y = x", ""),
    ("class C:\n  x = [x for y in z]\n  w = [x for y in x]", "x z"),
    ("x = {k: v for k, v in p if (q := k)}\nr = q", "p q"),
    ("for x in y: T[x] = lambda z, x=x: z + w", "w x y"),
    ("async def f():\n  async for x in y: await x\n  async with z as w: w()", "y z"),
    ("def f(x): return f'{x:{w}} {y!r}'", "w y"),
    ("@d(1)\ndef f(x:h=e)->r: \n  x:h2 = x\n  del x", "d e"),
    ("def f():\n  import a.b, c as d\n  from e import g\n  return a, d, g", ""),
    ("def f(x):\n  match x:\n    case [a, *b] if c: return a, b\n    case D.e: return x", "D.e c"),
    ("try: import a\nexcept E as e: a = e", "E e"),
    ("x[i].y[j].z", "i j x.[].y.[].z"),
    ("def f(x):\n  x.append(a)\n  x[0] = b\n  x.c = d", "a b d"),
])
def test_scopes(text, expected): assert " ".join(free_names(text)[0]) == expected

SYNTAX = """
async def f(a, /, b=-1, *c, d=1e-3, e, **g):
    async with h(a) as (i, *j), k: await l
    async for m in n: yield [o async for o in p if not o]
    return lambda q, *, r=2j: (q if r else ..., None, True, b"\\x00", "\u00e9\u4e00\U0001f600")
def s(t):
    match t:
        case {"u": [1, -2.5, *v], **w} | K(x, y=None): return f"{v!r:>{max(8, w)}}" f"a{{b}} {t=} {t:{w}.{v}f}" "c" "d"
        case "z" | True: global G
    try: G = t[1:, ::2, ...]
    except* (A, B) as e: raise C from e
    else: G |= {**t, 1: 2} if 0 < t <= 1 != 2 else {*t}
    finally: del t.a, t[0]
    while (n := 0x10) and not t or ~n: assert t, "no"
    else: from .m import a as b, c
@d.e(1)
class D(E, metaclass=F):
    x:int = 1
    y:"str"
    def z(self)->"D": return super().z() @ self // 2 ** 3
"""

def test_the_form_is_the_same_on_every_python():
    assert digest(normal_form(ast.parse(SYNTAX).body))[:12] == "bc910e5f84b6"

def test_changes_in_place():
    assert free_names("a[0] = 1\nb.c.append(2)\nd |= {}\ndel e.f\ng.h = 3\nprint(k)")[1] == ["a.[].=", "b.c.append", "d.=", "e.f.=", "g.h.="]

# --- checked by running

def imported(folder, monkeypatch, *names):
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in [m for m in sys.modules if m == "toy" or m.startswith("toy.")]: monkeypatch.delitem(sys.modules, name)
    return [import_module(f"toy.{name}") for name in names]

def test_what_runs_was_reached(package, monkeypatch):
    folder = package()
    top, = imported(folder, monkeypatch, "top")
    for name, argument in [("held", 1.), ("looked", "wave"), ("listed", 1.), ("called", 1.), ("calm", 1.), ("dressed", 1.), ("aliased", 1.), ("local", 1.), ("lonely", [1])]:
        run = partial(getattr(top, name), argument)
        assert top.__name__ == "toy.top" and unreached(run, "top", name, folder) == set(), name
        assert name in {part.name for part in executed_parts(run, folder)}
        assert code_digest_of(getattr(top, name), folder) == code_digest("top", name, folder)

def test_a_call_through_a_variable_is_found(package, monkeypatch):
    folder = package()
    top, base = imported(folder, monkeypatch, "top", "base")
    monkeypatch.setitem(base.TABLE, "planted", top.calm)
    assert {part.name for part in unreached(lambda: top.looked("planted")(1), "top", "looked", folder)} == {"calm", "quiet", "other"}
    monkeypatch.setattr(base, "KINDS", base.KINDS + [top.called])
    monkeypatch.setattr(top, "KINDS", base.KINDS)
    assert {part.name for part in unreached(lambda: top.listed(1), "top", "listed", folder)} == {"called", "loud", "wave"}

SCRIPT = """
from math import sin as wiggle
from toy import middle
from toy.top import calm, Heir
heir = Heir()
N = [3, 4]
class Local:
    def run(self): return N[0]
def helper(x): return middle.quiet(x) + Local().run()
def f(x): return helper(x) + wiggle(x)
def g(x): return middle.loud(x) + heir.run(x)
"""

def test_a_function_without_a_module(package, tmp_path, monkeypatch):
    imported(package(), monkeypatch, "top")
    def found(text, *changes):
        (script := tmp_path/f"{len(list(tmp_path.iterdir()))}.py").write_text(text)
        space, folder = runpy.run_path(script, run_name="__main__"), package(changes)
        return code_digest_of(space["f"], folder), code_digest_of(space["g"], folder)
    f, g = found(SCRIPT)
    assert found(SCRIPT.replace("(x):", "(x:float): # so\n   ")) == (f, g) != (g, f)
    for old, new in [("[3, 4]", "[3, 5]"), ("N[0]", "N[1]"), ("sin", "cos"), ("quiet(x) +", "quiet(x) -")]:
        assert found(SCRIPT.replace(old, new))[0] != f and found(SCRIPT.replace(old, new))[1] == g, old
    for change, same in [(("base", "SCALE = 2.0", "SCALE = 3.0"), 0), (("base", "def other(x): return x", "def other(x): return -x"), 1), (("base", "return self.width", "return 1"), 0)]:
        new = found(SCRIPT, change)
        assert new[same] == (f, g)[same] and new[1 - same] != (f, g)[1 - same], change

def test_threads_and_generators_are_traced_and_the_tracer_is_put_back(package, monkeypatch):
    folder = package()
    top, = imported(folder, monkeypatch, "top")
    def run():
        yield top.calm(1)
        thread = threading.Thread(target=top.called, args=(1,))
        thread.start()
        thread.join()
    mine = lambda *_: None
    sys.settrace(mine)
    try:
        ran = {part.name for part in executed_parts(run, folder)}
        with pytest.raises(ZeroDivisionError): executed_parts(lambda: 1/0, folder)
        assert sys.gettrace() is mine and threading.gettrace() is None
    finally: sys.settrace(None)
    assert ran == {"calm", "quiet", "other", "called", "loud", "wave"}

# --- the package itself

def test_no_statement_of_the_package_belongs_to_nobody():
    graph = _map(PACKAGE)
    assert [s.part for s in graph.statements if not s.binds and not list(graph._given(s))] == []

def test_reading_the_package_needs_no_torch():
    code = "import sys; from contrastive_nb.reach import code_digest, registered; print(len({code_digest(*f) for f in registered('settles').values()}), 'torch' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) == len(registered("settles")) and said[1:] == ["False", "False"]

def settling(key):
    "A settling function of the fast tier, its module and its name. What caches remember is forgotten."
    module, name = registered("settles", "key", "tier")[key, "fast"]
    f = getattr(import_module(f"contrastive_nb.{module}"), name)
    for o in gc.get_objects():
        if type(o) is functools._lru_cache_wrapper and o.__module__ == f.__module__: o.cache_clear()
    return f, module, name

QUICK = ("spec-rows", "spec-clip", "dro-bound", "dro-mean-variance", "mi-infonce", "adnce-form", "clus-exact-loss", "ind-identities", "div-mcc-baseline")

def test_nothing_that_a_settling_function_runs_is_missed():
    for key in QUICK: assert unreached(*settling(key)) == set(), key

def test_a_changed_loss_changes_the_claims_that_compute_it(tmp_path):
    shutil.copytree(PACKAGE, folder := tmp_path/"contrastive_nb", ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    text = (folder/"losses.py").read_text()
    tree = next(n for n in ast.parse(text).body if getattr(n, "name", "") == "family")
    lines = text.splitlines(keepends=True)
    lines.insert(tree.end_lineno - 1, "    1 + 1\n")
    (folder/"losses.py").write_text("".join(lines))
    for key in QUICK:
        f, module, name = settling(key)
        computes = any(part[::2] == ("losses", "family") for part in executed_parts(f))
        assert computes == (code_digest(module, name) != code_digest(module, name, folder)), key

TYPED = """
class Law:
    def draw(self): return 1

class Other:
    def draw(self): return 3

def use(law:Law): return law.draw()

def free(x): return x
"""
def test_the_class_that_a_parameter_names_is_followed(package):
    "The caller hands in the object, so its class stands nowhere else; the hint itself is not read."
    digest_of = lambda text: [code_digest("typed", name, package(typed=text)) for name in ("use", "free")]
    use, free = digest_of(TYPED)
    new, same = digest_of(TYPED.replace("return 1", "return 2"))
    assert new != use and same == free
    assert digest_of(TYPED.replace("return 3", "return 4")) == [use, free]
