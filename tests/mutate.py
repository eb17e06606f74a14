"""Breaks the library one token at a time and demands a failing test: `python tests/mutate.py [--only losses] [--sample 40]`.

A mutant changes one token of one function: a sign, an operator, a comparison, a number, a norm, a mask, a view. For each, a forked process imports the mutated module and runs the module's tests until one
fails. Survivors are listed, and make the exit status 1. A mutant that cannot change behaviour is named below with the reason."""
import argparse, ast, io, os, random, re, shutil, signal, sys, tempfile, time, tokenize
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = {"kernels": ["test_kernels.py"], "streaming": ["test_streaming.py", "test_losses.py"], "losses": ["test_losses.py", "test_gather.py"], "sphere": ["test_sphere.py"], "metrics": ["test_metrics.py"]}
SWAPS = {"+": "-", "-": "+", "*": "/", "/": "*", "**": "*", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "==": "!=", "!=": "==", "~": "", "not": "", "and": "or", "or": "and",
    "True": "False", "False": "True", "min": "max", "max": "min", "amin": "amax", "amax": "amin", "sum": "mean", "mean": "sum", "z1": "z2", "z2": "z1", "rows": "cols", "cols": "rows"}
PAIRED = re.compile(r"len\(z[12]\)|\bz[12]\.(?:device|dtype)") # views pair up: one shape, one device, and one dtype once they are lifted
EQUIVALENT = { # module, code with the token in brackets -> why no test can tell the difference
    ("kernels", "check_temperature(temperature, lift(x, y)[⟨0⟩])"): "lifted rows share dtype and device",
    ("kernels", "torch.isfinite(out.detach().⟨sum⟩())"): "sum and mean are finite together",
    ("streaming", "for p in range(⟨2⟩*k) for q"): "rows past the last have no columns",
    ("streaming", "if ⟨1e-30⟩ < low"): "above and below the two walks agree",
    ("streaming", "size = size or (⟨4096⟩"): "the size of a tile changes no value",
    ("streaming", "a.device.type ⟨!=⟩ \"cpu\" else"): "the same",
    ("streaming", "else ⟨512⟩ if"): "the same",
    ("streaming", "if n ⟨<⟩ 2048"): "the same",
    ("streaming", "if n < ⟨2048⟩"): "the same",
    ("streaming", "else ⟨1024⟩)"): "the same",
    ("losses", "if ⟨z1⟩.ndim != 2 or"): "shapes are compared in the same line",
    ("losses", "check_rows(z1=⟨z1⟩, negatives"): "the views were checked before",
    ("losses", "check_rows(⟨z1⟩=z1, negatives"): "the views were checked before",
    ("losses", "check_candidates(⟨z1⟩, negatives, ids)"): "only its shape and device are read",
    ("losses", "check_temperature(temperature, ⟨z1⟩)"): "only its dtype and device are read",
    ("losses", "pick_form(form, kernel, ⟨z1⟩, negatives"): "only its length is read",
    ("losses", "(ids == ids[⟨0⟩]).all()"): "equal to all others is equal to each",
    ("losses", "math.isfinite(loss.detach().⟨sum⟩())"): "sum and mean are finite together",
    ("losses", "torch.where(x >= 0, ⟨-⟩1., x)"): "any number stands in for what is not chosen",
    ("losses", "torch.where(x >= 0, -⟨1.⟩, x)"): "any number stands in for what is not chosen",
    ("losses", "lambda l: beta*(l⟨-⟩1/detached"): "a constant cancels; it keeps the exponential small, and without it the safe walk steps in",
    ("losses", "lambda l: beta*(l-⟨1⟩/detached"): "the same",
    ("losses", "lambda l: beta*(l-1⟨/⟩detached"): "the same",
    ("losses", "torch.where(square == 0, ⟨1.⟩, square)"): "any positive number stands in for what is not chosen",
    ("losses", "upper=⟨2⟩*t)"): "a bound of the logits only shifts them; where it is wrong the safe walk steps in",
    ("losses", "upper=2⟨*⟩t)"): "the same",
    ("losses", "torch.where(w > 0, x, ⟨0.⟩).mul(w)"): "multiplied by zero",
    ("losses", "torch.finfo(l.dtype).min/⟨4⟩"): "any share of the lowest number",
    ("losses", "dist.get_world_size(group) == ⟨1⟩: return z"): "two processes, which import the file as it is, test it (test_gather)",
    ("losses", "dist.get_world_size(group) ⟨==⟩ 1: return z"): "the same",
    ("losses", "if len(set(sizes)) ⟨>⟩ 1"): "the same",
    ("losses", "all_gather_single_autograd(z.contiguous(), ⟨0⟩,"): "the same",
    ("losses", "if len(set(sizes)) > ⟨1⟩"): "the same",
    ("losses", "sizes = [None]⟨*⟩dist"): "the same",
    ("losses", "group ⟨or⟩ dist.group.WORLD)"): "the same",
    ("sphere", "torch.empty(⟨0⟩, dtype=torch.float64)"): "only its dtype and device are read",
    ("sphere", "return q⟨*⟩signs[:,None,:]"): "signs are their own inverses",
    ("sphere", ".double().numpy().reshape(-⟨1⟩)"): "numpy infers any negative length",
    ("sphere", "np.hypot(k⟨/⟩2"): "the number of terms has a margin",
    ("sphere", "- (k/⟨2⟩-1))/2"): "the number of terms has a margin",
    ("sphere", "- (k/2-⟨1⟩))/2"): "the number of terms has a margin",
    ("sphere", "(k/2-1))⟨/⟩2 if"): "the number of terms has a margin",
    ("sphere", "(k/2-1))/⟨2⟩ if"): "the number of terms has a margin",
    ("sphere", "int(peak + ⟨12⟩*"): "the number of terms has a margin",
    ("sphere", "12*peak⟨**⟩.5"): "the number of terms has a margin",
    ("sphere", "if len(x) else ⟨0.⟩"): "without rows, terms have nothing to be summed for",
    ("sphere", "np.hypot(k/2⟨-⟩1, x.max())"): "the number of terms has a margin",
    ("sphere", "x.max()) ⟨-⟩ (k/2-1))/2"): "the number of terms has a margin",
    ("sphere", "x.max()) - (k/2⟨-⟩1))/2"): "the number of terms has a margin",
    ("sphere", "12*peak**⟨.5⟩) + 40)"): "the number of terms has a margin",
    ("sphere", "12*peak**.5) + ⟨40⟩)"): "the number of terms has a margin",
    ("sphere", "last, p, total = ⟨0.⟩,"): "multiplied by zero in the first step",
    ("sphere", "zip([⟨0.⟩, *b], b)"): "the same",
    ("sphere", "phi = (torch.arange(2*n).double() ⟨+⟩ .5)"): "equal angles are a rule from any start",
    ("sphere", "phi = (torch.arange(2*n).double() + ⟨.5⟩)"): "equal angles are a rule from any start",
    ("sphere", "torch.stack([phi.cos(), phi.sin()], ⟨-⟩1)"): "the last of two dimensions is the second",
    ("sphere", "one*(m > ⟨0⟩), one*(m == 0)"): "m is 0 or at least 2",
    ("sphere", "min(angle, ⟨12⟩*"): "beyond it the integrand is below rounding",
    ("sphere", "max(dim, ⟨4⟩)"): "the same",
    ("sphere", "max(kappa, ⟨1e-9⟩)"): "the same",
    ("sphere", "_log_cap_rule(dim, reach, ⟨400⟩)"): "the number of nodes has a margin",
    ("sphere", "for _ in range(⟨3⟩):"): "one refinement more",
    ("sphere", "kappa*(theta.cos()⟨-⟩1)"): "a constant cancels; it keeps the exponential small",
    ("sphere", "kappa*(theta.cos()-⟨1⟩)"): "the same",
    ("sphere", "clamp(min=⟨1e-300⟩).log()"): "any number far below the sine of an angle on the grid",
    ("sphere", "logp.max() - ⟨45⟩)"): "a threshold below rounding",
    ("sphere", "keep[0].item()-⟨1⟩,"): "a margin of one step of the grid",
    ("sphere", "keep[-⟨1⟩].item()"): "the same",
    ("sphere", "keep[-1].item()+⟨1⟩"): "the same",
    ("metrics", "spread > ⟨1e-12⟩*a"): "a threshold between rounding and data",
    ("metrics", "1e-12*a.abs().⟨amax⟩(0)"): "where a column is constant up to rounding, its least and largest size agree",
    ("metrics", "(z[fit] ⟨-⟩ mz)"): "the regressors are centred, so a constant in what they explain drops out",
    ("metrics", "dim=0, eps=⟨1e-300⟩)"): "any number far below a sound norm",
    ("metrics", "int(labels.max())+⟨1⟩)"): "a class without rows gets no vote",
}
SECONDS = 300 # a mutant that runs longer hangs, and counts as found

def spans(tree):
    "Line ranges of statements inside functions that compute: not signatures, docstrings, messages or imports."
    for f in ast.walk(tree):
        if not isinstance(f, (ast.FunctionDef, ast.Lambda)) or isinstance(f, ast.Lambda): continue
        body = f.body[1:] if isinstance(f.body[0], ast.Expr) and isinstance(f.body[0].value, ast.Constant) else f.body
        for s in body: yield s.lineno, s.end_lineno
def messages(tree):
    "Positions inside `raise` and `assert` statements, which only word an error."
    for s in ast.walk(tree):
        if isinstance(s, (ast.Raise, ast.Assert)): yield (s.lineno, s.col_offset), (s.end_lineno, s.end_col_offset)

def changed(token):
    "What a token becomes, or None."
    if token.type == tokenize.NUMBER:
        number = ast.literal_eval(token.string)
        return repr(number + 1 if isinstance(number, int) else number*2 if number else 1.)
    return SWAPS.get(token.string) if token.type in (tokenize.OP, tokenize.NAME) else None

def equivalent(module, line, start, end):
    "Is the token at these columns of a line named above?"
    if any(m.start() <= start < m.end() for m in PAIRED.finditer(line)): return True
    pieces = [code.replace("⟩", "⟨").split("⟨") for m, code in EQUIVALENT if m == module]
    return any((line[:start].endswith(before), line[start:end], line[end:].startswith(after)) == (True, token, True) for before, token, after in pieces)

def mutants(module):
    "All mutants of a module that compile: (line number, line, old, new, source)."
    source = (ROOT/"contrastive_nb"/f"{module}.py").read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines(keepends=True)
    inside, skip = list(spans(tree)), list(messages(tree))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, start), (_, end) = token.start, token.end
        if (new := changed(token)) is None or not any(a <= row <= b for a, b in inside) or any(a <= (row, start) < b for a, b in skip): continue
        line = lines[row-1]
        text = "".join(lines[:row-1] + [line[:start] + new + line[end:]] + lines[row:])
        try: same = ast.dump(ast.parse(text)) == ast.dump(tree)
        except SyntaxError: continue
        if not same and not equivalent(module, line, start, end): yield row, line.strip(), token.string, new, text

class Mutated(MetaPathFinder, Loader):
    "Imports one module from a given text."
    def __init__(self, name, text): self.name, self.text = name, text
    def find_spec(self, name, path=None, target=None): return spec_from_loader(name, self, origin=str(ROOT/f"{name.replace('.', '/')}.py")) if name == self.name else None
    def exec_module(self, module): exec(compile(self.text, module.__spec__.origin, "exec"), module.__dict__)

class Finders:
    "A pytest plugin: the tests that found the latest mutants run first, since a mutant is mostly found by what found its neighbours."
    def __init__(self, path): self.path = path
    def pytest_collection_modifyitems(self, items):
        rank = {test: i for i, test in enumerate(self.path.read_text().splitlines())}
        items.sort(key=lambda item: -rank.get(item.nodeid, -1))
    def pytest_runtest_logreport(self, report):
        if report.failed:
            with self.path.open("a") as f: f.write(f"{report.nodeid}\n")

def child(module, text, finders):
    "Run the module's tests on the mutant in this process; the exit status says whether one failed."
    import pytest
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    signal.alarm(SECONDS)
    if text: sys.meta_path.insert(0, Mutated(f"contrastive_nb.{module}", text))
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not processes", *(str(ROOT/"tests"/t) for t in TESTS[module])], plugins=[Finders(finders)])
    os._exit(0 if code == 0 else 1)

def collect(statuses, pids, todo, controls):
    "Wait for one child; a mutant that survives is told at once."
    pid, status = os.wait()
    statuses[i := pids.pop(pid)] = status
    module, row, line, old, new, _ = todo[i]
    if i >= controls and status == 0: print(f"survived: {module}.py:{row}  {old!r} -> {new!r}   {line}", flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", choices=TESTS, default=list(TESTS), help="modules")
    p.add_argument("--sample", type=int, default=0, help="a fixed random sample of this size; 0 takes all")
    p.add_argument("--jobs", type=int, default=2)
    args = p.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HYPOTHESIS_DATABASE="none")
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    import hypothesis, numpy, pandas, pytest, scipy.stats, sklearn.linear_model, torch # what children need, imported once
    torch.set_num_threads(1)
    todo = [(m, *mutant) for m in args.only for mutant in mutants(m)]
    if args.sample: todo = random.Random(0).sample(todo, min(args.sample, len(todo)))
    todo = [(m, 0, "unchanged", "", "", "") for m in args.only] + todo # the tests must pass on the code as it is
    statuses, pids, start = {}, {}, time.time()
    finders = Path(tempfile.mkdtemp())/"finders"
    finders.touch()
    for i, (module, *_, text) in enumerate(todo):
        if len(pids) >= args.jobs: collect(statuses, pids, todo, len(args.only))
        if (pid := os.fork()) == 0: child(module, text, finders)
        pids[pid] = i
        if sys.stderr.isatty(): print(f"\r{i+1}/{len(todo)} {module}, {time.time()-start:.0f} s ", end="", file=sys.stderr)
    while pids: collect(statuses, pids, todo, len(args.only))
    shutil.rmtree(finders.parent)
    broken = [todo[i][0] for i in range(len(args.only)) if statuses[i] != 0]
    if broken: sys.exit(f"the tests of {', '.join(broken)} fail without any change")
    survivors = sum(statuses[i] == 0 for i in range(len(args.only), len(todo)))
    print(f"{len(todo) - len(args.only) - survivors} mutants found, {survivors} survived, {len(EQUIVALENT)} equivalent, in {time.time()-start:.0f} s")
    sys.exit(survivors > 0)

if __name__ == "__main__": main()
