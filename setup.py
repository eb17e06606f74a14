"Hands the requirement lists of settings.ini to setuptools and writes the commit into what is built; the rest stands in pyproject.toml."
import subprocess
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

def write_commit(folder):
    "Rows that an installed package makes say which commit it was built from. Without git, what stands there stays."
    if not Path(".git").exists(): return
    git = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    found = subprocess.run(git, capture_output=True, text=True)
    if found.returncode == 0: Path(folder, "contrastive_nb", "COMMIT").write_text(found.stdout, encoding="utf-8")

class Build(build_py):
    def run(self):
        super().run()
        if not self.editable_mode: write_commit(self.build_lib)

class Source(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)

cfg = ConfigParser(delimiters="=")
cfg.read("settings.ini", encoding="utf-8")
lists = {name: names.split() for name, names in cfg["DEFAULT"].items()}
requirements = lists.pop("requirements")
lists["dev"] += lists["lab"] + lists["docs"]
setup(install_requires=requirements, extras_require=lists, cmdclass={"build_py": Build, "sdist": Source})
