"""How much do threads and instruction sets change a replay? `python tests/replay_spread.py KIND [KEY] [--ledger PATH] [--root DIR]`.

Repeats the rehearsal of a row (the first of its kind, or the one with that key) in processes of its own under several switches,
and prints the numbers of each, and for each first word the largest difference, relative to a number where it is larger than one:
what the tolerances of `replays` are set from. A script, not a test: it takes about eight times as long as a replay."""
import argparse, json, os, subprocess, sys
from pathlib import Path

from contrastive_nb.ledger import PACKAGE
from contrastive_nb.runs import RUNS, run_rows

AVX2 = dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")
SWITCHES = {
    "one thread": {},
    "two threads": dict(OMP_NUM_THREADS="2"),
    "sse": dict(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2", OPENBLAS_CORETYPE="Nehalem"),
    "avx2": AVX2 | dict(OPENBLAS_CORETYPE="Haswell"),
    "avx512": dict(ATEN_CPU_CAPABILITY="avx512", ONEDNN_MAX_CPU_ISA="AVX512_CORE", MKL_ENABLE_INSTRUCTIONS="AVX512", OPENBLAS_CORETYPE="SkylakeX"),
    "amx": dict(ONEDNN_MAX_CPU_ISA="AVX512_CORE_AMX"),
    "mkl compatible": dict(MKL_CBWR="COMPATIBLE"),
    "avx2, two threads": AVX2 | dict(OMP_NUM_THREADS="2"),
}
CHILD = """import json, sys
from importlib import import_module
from contrastive_nb.reach import registered
for module in {module for module, _ in registered("replays").values()}: import_module(f"contrastive_nb.{module}")
import torch
from contrastive_nb.runs import rehearse
print(json.dumps(rehearse(json.loads(sys.stdin.read()), sys.argv[1])))"""

def numbers(row, root, switches):
    "The rehearsal of a row in a process of its own."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent), **switches}
    done = subprocess.run([sys.executable, "-c", CHILD, root], input=json.dumps(row), capture_output=True, text=True, env=env)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])

def spreads(found):
    "First word -> largest difference from the first of them, over all numbers that begin with it."
    first, largest = next(iter(found.values())), {}
    for name, value in first.items():
        word = name.split()[0]
        gap = max(abs(other[name] - value) for other in found.values())/max(1., abs(value))
        largest[word] = max(largest.get(word, 0.), gap)
    return largest

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind")
    p.add_argument("key", nargs="?", default="")
    p.add_argument("--ledger", type=Path, default=RUNS)
    p.add_argument("--root", default="")
    p.add_argument("--quiet", action="store_true", help="only the largest differences")
    args = p.parse_args()
    rows = [r for r in run_rows(args.kind, args.ledger) if r["key"].startswith(args.key)]
    if not rows: sys.exit(f"{args.ledger} has no row {args.key} of kind {args.kind!r}")
    found = {}
    for name, switches in SWITCHES.items():
        found[name] = numbers(rows[0], args.root, switches)
        if not args.quiet: print(f"{name:<18}", found[name], flush=True)
    print(args.kind, rows[0]["key"])
    for word, gap in spreads(found).items(): print(f"{word:<18} {gap:.2e}")

if __name__ == "__main__": main()
