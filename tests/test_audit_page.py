"""The audit's page in a real browser: nothing fails, nothing is fetched, it fits a phone."""
import json
import re
import shutil
from dataclasses import replace
from html import unescape

import pytest
from processes import completed
import torch

from clip_help_simclr.audit import audit
from clip_help_simclr.data import ShapesWorld
from clip_help_simclr.guides import TextInducedGuide

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=30000".split()
HOSTILE = "a <script>alert(1)</script> & \"quoted\" caption, " + "unbreakable" * 12

# put into a copy of the page: opens everything, then reports to the frame around it
PROBE = """<script>
for (const d of document.querySelectorAll("details")) d.open = true;
for (const i of document.images) i.loading = "eager";
const pending = setInterval(() => {
  if (document.readyState != "complete" || [...document.images].some(i => !i.complete)) return;
  clearInterval(pending);
  parent.postMessage({images: document.images.length, broken: [...document.images].filter(i => !i.naturalWidth).length, no_alt: [...document.images].filter(i => !i.alt).length,
    scripts: document.scripts.length - 1, width: document.documentElement.scrollWidth, window: innerWidth, fetched: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    anchors: [...document.querySelectorAll("nav a")].filter(a => !document.querySelector(a.getAttribute("href"))).length, details: document.querySelectorAll("details").length}, "*");
}, 50);
</script></body>"""
FRAME = '<!doctype html><body><pre></pre><script>addEventListener("message", e => document.querySelector("pre").textContent = JSON.stringify(e.data))</script><iframe src="copy.html" style="width:{}px;height:800px;border:0"></iframe>'


@pytest.fixture(scope="module", params=["labels", "no labels"])
def page(request, tmp_path_factory):
    data = ShapesWorld(named=dict(shape=0.8, colour=0.5), size=64).data(1000)
    data = replace(data, name="shapes <b>bold</b>", captions=[HOSTILE, *data.captions[1:]])
    labels = data.labels if request.param == "labels" else torch.full((1000,), -1)
    found = audit(data, TextInducedGuide.from_captions(data), labels=labels, batch_size=64, pictures=100)
    for pairs in found.pictures.values(): pairs[0]["texts"] = [HOSTILE, HOSTILE]
    return found, found.save(tmp_path_factory.mktemp("audit"))


def in_browser(path, width):
    html = path.read_text(encoding="utf-8")
    path.with_name("copy.html").write_text(html.replace("</body>", PROBE), encoding="utf-8")
    path.with_name("frame.html").write_text(FRAME.format(width), encoding="utf-8")
    profile = f"--user-data-dir={path.with_name('browser')}"
    done = completed([BROWSER, *FLAGS, profile, "--dump-dom", path.with_name("frame.html").as_uri()])
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(re.search("<pre>(.*?)</pre>", done.stdout)[1])), console


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")
@pytest.mark.parametrize("width", [390, 360, 1280])
def test_page_in_a_browser(page, width):
    found, path = page
    seen, console = in_browser(path, width)
    assert not console
    assert seen["images"] == sum(2 * len(pairs) for pairs in found.pictures.values()) + len(found.figures())
    assert (seen["broken"], seen["no_alt"], seen["scripts"], seen["fetched"], seen["anchors"]) == (0, 0, 0, 0, 0)
    assert seen["details"] == len(found.pictures) and seen["window"] == width
    assert seen["width"] <= width, "the page scrolls sideways"


def test_page_is_one_small_file(page):
    found, path = page
    html = path.read_text(encoding="utf-8")
    assert sum(map(len, found.pictures.values())) >= 300
    assert path.stat().st_size < 10e6
    assert not re.search(r'(src|href)="(?!data:|#)', html) and "url(" not in html and "@import" not in html
    assert "<script" not in html and "<b>bold" not in html


def test_json_says_what_the_page_says(page):
    found, path = page
    numbers = json.loads(path.with_name("audit.json").read_text())
    assert numbers == json.loads(json.dumps(found.numbers))
    assert [a["strategy"] for a in numbers["advice"]] == ["AddNewPositive", "DropFalsePositive", "DropFalseNegative", "DropEasyNegative"]
