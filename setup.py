"Hands the requirement lists of settings.ini to setuptools; everything else stands in pyproject.toml."
from configparser import ConfigParser
from setuptools import setup

cfg = ConfigParser(delimiters="=")
cfg.read("settings.ini", encoding="utf-8")
lists = {name: names.split() for name, names in cfg["DEFAULT"].items()}
requirements = lists.pop("requirements")
lists["dev"] += lists["lab"] + lists["docs"]
setup(install_requires=requirements, extras_require=lists)
