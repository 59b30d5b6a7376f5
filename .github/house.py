"""The package as a house: its floors, the rooms on them, and who imports whom. Checked by `tests/test_house.py`; drawn into `.github/house.svg`.

    python .github/house.py            # draws the picture again
"""
import ast
import io
import sys
import tokenize
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "clip_help_simclr"
MOST_LINES = 400 # of a room
WIDTH = 120 # of a line of code, contents of its strings and comments not counted

# from the ground up: a floor imports only from those before it
STORIES = (
    ("core",), ("processes",),
    ("cooccurrence", "factorization", "unification", "generalization"),
    ("pairs", "resampling", "losses"),
    ("data", "augment", "encoders", "guides"),
    ("training", "evaluation", "audit"),
    ("demo", "cli"),
    ("benchmarks", "experiments"))
FLOORS = [floor for story in STORIES for floor in story]
TITLES = ("ground", "processes", "theory", "pairs and losses", "images and guides", "training and its worth", "main job", "claims")


def modules() -> dict[str, Path]:
    "The exported modules by their dotted name below the package; those of a floor's own `__init__` have the floor's name."
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix("__init__").removesuffix(".")
        if name and name != "_modidx": found[name] = path
    return found


def floor(module: str) -> str:
    "The floor on which a room lies."
    return module.partition(".")[0]


def imports(module: str, path: Path) -> list[tuple[str, str]]:
    "(imported module, name) pairs of a module within the package, imports inside functions included."
    known, found = modules(), []
    inside = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom): continue
        if node.level: parts = inside[:len(inside) - node.level + 1] + (node.module.split(".") if node.module else [])
        elif node.module and node.module.split(".")[0] == PACKAGE: parts = node.module.split(".")[1:]
        else: continue
        for alias in node.names:
            target = ".".join([*parts, alias.name])
            found.append((target, "") if target in known else (".".join(parts), alias.name))
    return [(target, name) for target, name in found if target]


def floor_imports() -> dict[str, set[str]]:
    "Floor to the floors that it imports from."
    found: dict[str, set[str]] = {name: set() for name in FLOORS}
    for module, path in modules().items():
        for target, _ in imports(module, path):
            if floor(target) != floor(module): found[floor(module)].add(floor(target))
    return found


def dense_lines(path: Path) -> tuple[list[int], int]:
    "Numbers of lines wider than WIDTH without comments and contents of strings; and how many lines hold code."
    text = path.read_text(encoding="utf-8")
    width = {number: len(line) for number, line in enumerate(text.splitlines(), 1)}
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind, (first, _), (last, _) = tokenize.tok_name[token.type], token.start, token.end
        if kind in ("NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"): continue
        if kind == "COMMENT":
            width[first] -= len(token.string)
            continue
        code.add(first)
        if kind in ("STRING", "FSTRING_MIDDLE"):
            if first == last: width[first] -= max(0, len(token.string) - 2)
            else: width.update(dict.fromkeys(range(first, last + 1), 0))
    return [number for number in sorted(code) if width[number] > WIDTH], len(code)


def circle() -> list[str]:
    "Modules that import each other in a ring, if there are any; a floor and its own rooms do not count."
    graph = defaultdict(set)
    for module, path in modules().items():
        for target, _ in imports(module, path):
            related = target.startswith(module + ".") or module.startswith(target + ".")
            if target != module and not related: graph[module].add(target)
    done, path = set(), []
    def visit(module: str) -> list[str]:
        if module in path: return [*path[path.index(module):], module]
        if module in done: return []
        path.append(module)
        for target in sorted(graph[module]):
            ring = visit(target)
            if ring: return ring
        path.pop()
        done.add(module)
        return []
    for module in list(modules()):
        ring = visit(module)
        if ring: return ring
    return []


def _needed(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    "Arrows of the picture: imports that do not follow from others. What all floors import, the ground, is left out."
    def reach(start: str) -> set[str]:
        found, todo = set(), list(graph[start])
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += graph[name]
        return found
    arrows = []
    for name, targets in graph.items():
        above = sorted(t for t in targets if t != "core")
        arrows += [(name, t) for t in above if not any(t in reach(other) for other in above if other != t)]
    return arrows


def drawing() -> str:
    "The house as SVG: one row per story, one box per floor, an arrow from a floor to those that it imports from."
    rooms = defaultdict(list)
    for module in modules():
        room = module.partition(".")[2]
        if room and not room.startswith("__"): rooms[floor(module)].append(room)
    left, box, gap = 170, 178, 34
    place, y = {}, 20
    for story in reversed(STORIES):
        heights = [40 + 15 * len(rooms[name]) if rooms[name] else 32 for name in story]
        for column, (name, tall) in enumerate(zip(story, heights)): place[name] = left + column * (box + gap), y, tall
        y += max(heights) + 50
    width, total = left + 4 * (box + gap) - gap + 20, y - 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-family="sans-serif" font-size="12">',
           '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
           '<path d="M0,0 L8,4 L0,8 z" fill="#8a8f98"/></marker></defs>',
           f'<rect width="{width}" height="{total}" fill="white"/>']
    for name, target in _needed(floor_imports()):
        x1, y1, tall = place[name]
        x2, y2, _ = place[target]
        shift = 12 * (FLOORS.index(name) % 5 - 2)
        if y1 == y2:
            right = x2 < x1
            out.append(f'<path d="M{x1 + (0 if right else box)},{y1 + 16} L{x2 + (box if right else 0)},{y2 + 16}" '
                       'stroke="#8a8f98" fill="none" marker-end="url(#tip)"/>')
            continue
        start, end = (x1 + box / 2 + shift, y1 + tall), (x2 + box / 2 + shift, y2)
        out.append(f'<path d="M{start[0]},{start[1]} C{start[0]},{start[1] + 30} {end[0]},{end[1] - 34} {end[0]},{end[1] - 1}" '
                   'stroke="#8a8f98" fill="none" marker-end="url(#tip)"/>')
    for story, title in zip(STORIES, TITLES):
        _, y1, _ = place[story[0]]
        out.append(f'<text x="12" y="{y1 + 20}" fill="#555" font-style="italic">{escape(title)}</text>')
        for name in story:
            x1, y1, tall = place[name]
            out.append(f'<rect x="{x1}" y="{y1}" width="{box}" height="{tall}" rx="4" fill="#eef3f9" stroke="#4f81bd"/>')
            out.append(f'<text x="{x1 + 10}" y="{y1 + 20}" font-weight="bold">{escape(name)}</text>')
            out += [f'<text x="{x1 + 18}" y="{y1 + 38 + 15 * i}" fill="#333">{escape(room)}</text>' for i, room in enumerate(rooms[name])]
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / ".github" / "house.svg").write_text(drawing(), encoding="utf-8")
    print("drawn: .github/house.svg", file=sys.stderr)
