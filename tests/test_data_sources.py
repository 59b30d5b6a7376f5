"""A user's own data source, in a module of their own, is as good as those of the library."""
import os
import subprocess
import sys

import pytest

from clip_help_simclr.core import entries, register
from clip_help_simclr.data import Reading, Splits, TensorSet, load_data, source_forms

OWN = """
import torch
from clip_help_simclr.core import register
from clip_help_simclr.data import Splits, TensorSet


def grey(level, size):
    images = torch.full((3, 3, size, size), level, dtype=torch.uint8)
    return TensorSet(name="mine", classes=(), labels=torch.full((3,), -1), captions=[""] * 3, caption_source="none",
                     size=size, images=images)


@register("data")
def mine(path, how):
    level = int(path)
    size = how.sized(6).size
    return Splits(lambda: grey(level, size), lambda: grey(level + 1, size))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    "A module of the user's, imported as a plug-in; what it registers is forgotten afterwards."
    (tmp_path / "own_source.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_source
    yield own_source
    del sys.modules["own_source"]
    forget("mine")


def forget(name):
    from clip_help_simclr.core import registry
    del registry._TABLES["data"][name]


def test_own_source(own):
    train, test = load_data("mine:7")
    assert (train.size, train.images.unique().tolist(), test.images.unique().tolist()) == (6, [7], [8])
    assert load_data("mine:7", size=9).train.size == 9
    assert "mine:PATH" in source_forms() and entries("data")["mine"] is own.mine
    with pytest.raises(ValueError, match="^data: 'mine'. Say where it is: mine:PATH"): load_data("mine")
    with pytest.raises(ValueError, match="^unknown data set .imagenet.. Valid: .*folder:PATH.*mine:PATH"):
        load_data("imagenet")


def test_settings_are_checked_for_own_sources_too(own):
    with pytest.raises(ValueError, match="^size: 0"): load_data("mine:7", size=0)
    with pytest.raises(TypeError, match="^strict: 'no'"): load_data("mine:7", strict="no")


def test_settings_reach_the_source():
    got = []
    def thrifty(how):
        got.append(how)
        raise FileNotFoundError("data: nothing there")
    register("data", "thrifty")(thrifty)
    settings = dict(size=5, seed=3, download=True, strict=True, memory=7, workers=0, progress=False, channels=1,
                    background="navy")
    try:
        with pytest.raises(FileNotFoundError, match="nothing there"): load_data("thrifty", **settings)
    finally: forget("thrifty")
    assert got == [Reading(**settings)]


@pytest.mark.parametrize("source, says", [
    (lambda: None, "takes 0 arguments. Give it .path, how."), (lambda a, b, c: None, "takes 3 arguments"),
    (lambda how: None, "gave NoneType. Return Splits"),
    (lambda how: TensorSet, "gave type. Return Splits"),
])
def test_sources_of_another_form(source, says):
    register("data", "odd")(source)
    try:
        with pytest.raises(TypeError, match=f"^data: the source 'odd' {says}"): load_data("odd")
    finally: forget("odd")


def test_a_path_with_colons_stays_whole():
    register("data", "whole")(lambda path, how: Splits(lambda: path, lambda: how))
    try: assert load_data("whole:C:/a:b").train == "C:/a:b"
    finally: forget("whole")


def test_names_of_the_library_are_taken():
    with pytest.raises(ValueError, match="'folder' is defined in clip_help_simclr.data.folders already"):
        @register("data")
        def folder(path, how): pass


def test_plugin_by_variable(tmp_path):
    "Named in CHS_IMPORT, the module is imported where data are named."
    (tmp_path / "own_source.py").write_text(OWN)
    code = "from clip_help_simclr.data import load_data; print(load_data('mine:4').test.images.unique().tolist())"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "CHS_IMPORT": "own_source", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[5]"
