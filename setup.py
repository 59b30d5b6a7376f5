"""Packaging for clip_help_simclr. Everything that can change stands in settings.ini."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
suffix = "_requirements"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=f">={cfg['min_python']}",
    packages=[*find_packages(include=["clip_help_simclr", "clip_help_simclr.*"]), "clip_help_simclr.recipes"],
    package_dir={"clip_help_simclr.recipes": "recipes"},
    package_data={"clip_help_simclr": ["py.typed"], "clip_help_simclr.recipes": ["*.yaml"]},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={key.removesuffix(suffix): shlex.split(value) for key, value in cfg.items() if key.endswith(suffix)},
    entry_points={
        "console_scripts": cfg["console_scripts"].splitlines(),
        "nbdev": ["clip_help_simclr = clip_help_simclr._modidx:d"],
    },
    zip_safe=False,
)
