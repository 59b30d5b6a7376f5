"""The house keeps its order: rooms of a readable size, imports that run down, nothing private across floors, lines that do one thing."""
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("house", ROOT / ".github" / "house.py")
house = importlib.util.module_from_spec(spec)
spec.loader.exec_module(house)

LARGER = {} # rooms that a split would make worse, and their most lines


def test_every_floor_is_known():
    assert {house.floor(module) for module in house.modules()} == set(house.FLOORS)


def test_rooms_can_be_read_in_one_sitting():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in house.modules().items()}
    too_large = {module: n for module, n in lines.items() if n > LARGER.get(module, house.MOST_LINES)}
    assert not too_large, f"rooms over {house.MOST_LINES} lines: {too_large}. Make a floor of them"


def test_imports_run_down():
    wrong = [f"{name} imports {target}" for name, targets in house.floor_imports().items() for target in targets
             if house.FLOORS.index(target) > house.FLOORS.index(name)]
    assert not wrong, wrong
    assert not house.circle(), f"a circle: {' -> '.join(house.circle())}"


def test_nothing_private_crosses_floors():
    private = []
    for module, path in house.modules().items():
        for target, name in house.imports(module, path):
            if name.startswith("_") and not name.startswith("__") and house.floor(target) != house.floor(module):
                private.append(f"{module} takes {target}.{name}")
    assert not private, private


def test_a_line_does_one_thing():
    dense, code, long, lines = [], 0, 0, 0
    for module, path in house.modules().items():
        numbers, count = house.dense_lines(path)
        dense += [f"{module}:{number}" for number in numbers]
        code += count
        text = path.read_text(encoding="utf-8").splitlines()
        long += sum(len(line) > house.WIDTH for line in text)
        lines += len(text)
    assert len(dense) <= 0.01 * code, f"{len(dense)} of {code} code lines are wider than {house.WIDTH}: {dense[:10]}"
    assert long <= 0.04 * lines, f"{long} of {lines} lines are longer than {house.WIDTH}"


def test_one_room_talks_to_torch_distributed():
    talks = [module for module, path in house.modules().items() if "torch.distributed" in path.read_text(encoding="utf-8")]
    code = [module for module in talks if any(
        line.lstrip().startswith(("import torch.distributed", "from torch.distributed", "from torch import distributed"))
        for line in house.modules()[module].read_text(encoding="utf-8").splitlines())]
    assert set(code) <= {"processes", "experiments.exchange"}, code


def test_the_picture_is_fresh():
    drawn = (ROOT / ".github" / "house.svg").read_text(encoding="utf-8")
    assert drawn == house.drawing(), "the house has changed: python .github/house.py draws it again"
