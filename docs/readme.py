"""Writes README.md from nbs/index.ipynb: `python docs/readme.py`. Text as it is, code with its stored output, hidden cells left out."""
import json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def outputs(cell: dict) -> str:
    "The stored outputs of a cell: Markdown and HTML tables as they are, text in a fence."
    found = []
    for o in cell["outputs"]:
        data = o.get("data", {"text/plain": o.get("text", "")})
        kind = next((k for k in ("text/markdown", "text/html") if k in data), None)
        text = "".join(data[kind or "text/plain"])
        found.append(re.sub(r"<style.*?</style>\s*", "", text, flags=re.S) if kind else f"```\n{text.rstrip()}\n```")
    return "\n\n".join(found)

def block(cell: dict) -> str:
    "A cell as Markdown."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code": return source
    if re.search(r"^#\|\s*(hide|default_exp)\b", source, re.M): return ""
    shown = "" if re.search(r"^#\|\s*echo:\s*false", source, re.M) else f"```python\n{source}\n```\n\n"
    return shown + outputs(cell)

def main():
    cells = json.loads((ROOT/"nbs"/"index.ipynb").read_text(encoding="utf-8"))["cells"]
    (ROOT/"README.md").write_text("\n\n".join(b for c in cells if (b := block(c))) + "\n", encoding="utf-8")

if __name__ == "__main__": main()
