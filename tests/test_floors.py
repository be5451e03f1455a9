"""The floor plan: who may import whom, and that importing has no effect."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import raycrnn

FLOORS = (
    # plain Python, NumPy, Pillow
    {"errors", "command", "storage", "config", "alphabet", "samples", "order", "image", "augment", "metrics"}
    | {"distributions", "search", "sampler", "transcription", "evaluation", "speeds"},
    # torch
    {"model", "ctc", "confidence"},
    # learning without a cluster
    {"learning", "recognizer", "checkpoint", "pace", "resume", "journal", "lexicon", "lm"}
    | {
        "trials",
        "board",
        "search_report",
        "results",
        "report",
        "writers",
        "inputs",
        "batching",
        "intake",
        "service",
        "web",
        "door",
    },
    # Ray
    {"cluster", "dataset", "material", "ranges", "keep", "ingest", "monitor", "job", "worker", "fit"}
    | {"trial", "schedulers", "tuning", "decodings", "progress", "reading"}
    | {"train", "tune", "evaluate", "predict", "serve"},
    # tools beside the road
    {"check", "split", "labels", "words", "mnist_numbers", "convert", "export", "bench"} | {"cli", "__main__"},
)

HOUSE = Path(raycrnn.__file__).parent


def files() -> dict[Path, str]:
    """Each source file and the module it belongs to: in a folder, the folder. Not the house itself."""
    inside = {path: path.relative_to(HOUSE).parts[0].removesuffix(".py") for path in HOUSE.rglob("*.py")}
    return {path: module for path, module in inside.items() if module != "__init__"}


def modules_on(*floors: int) -> list[str]:
    return sorted(set(files().values()) & set().union(*(FLOORS[floor] for floor in floors)))


def floor_of(module: str) -> int:
    return next(floor for floor, modules in enumerate(FLOORS) if module in modules)


def imported_names(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Dotted names of all that is imported, wherever in the file, those of `from` with what they take."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


@cache
def imports() -> dict[str, set[str]]:
    """Of each module, the dotted names that any of its files imports."""
    found: dict[str, set[str]] = {}
    for path, module in files().items():
        package = ["raycrnn", *path.relative_to(HOUSE).parts[:-1]]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.setdefault(module, set()).update(imported_names(tree, package))
    return found


def neighbours(module: str) -> set[str]:
    """The other modules of the house that a module imports. What the house itself defines is none."""
    parts = [name.split(".") for name in imports()[module]]
    return {name[1] for name in parts if name[0] == "raycrnn" and name[1] in imports()} - {module}


def test_imports_are_found_wherever_they_stand():
    source = """
import raycrnn.image
import torch as t
from raycrnn import ctc, model as network
from raycrnn.config import load
from . import order
from ..samples import Row
def later():
    if True:
        from ray.train import RunConfig
"""
    assert set(imported_names(ast.parse(source), ["raycrnn", "bench"])) == {
        "raycrnn.image",
        "torch",
        "raycrnn.ctc",
        "raycrnn.model",
        "raycrnn.config.load",
        "raycrnn.bench.order",
        "raycrnn.samples.Row",
        "ray.train.RunConfig",
    }


def test_every_module_has_one_floor():
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))
    homeless = set(files().values()) - set().union(*FLOORS)
    assert not homeless, f"stand on no floor: {sorted(homeless)}"


@pytest.mark.parametrize("module", modules_on(0, 1, 2, 3, 4))
def test_a_module_imports_from_its_own_floor_and_those_below(module):
    above = {other for other in neighbours(module) if floor_of(other) > floor_of(module)}
    assert not above, f"{module} (floor {floor_of(module)}) imports {sorted(above)} from above"


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_no_imports_go_round_in_a_circle(floor):
    graph = {module: neighbours(module) & FLOORS[floor] for module in modules_on(floor)}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"imports go round: {' -> '.join(error.args[1])}")
    assert set(order) == set(graph)


@pytest.mark.parametrize("module", modules_on(0, 1, 2))
def test_a_low_floor_does_without_torch_or_ray(module):
    forbidden = {"torch", "ray"} if floor_of(module) == 0 else {"ray"}
    assert not {name.partition(".")[0] for name in imports()[module]} & forbidden


# Twice: what others do when they are imported, they do the first time.
IMPORT_TWICE = """
import importlib, os, signal, sys, threading

def state():
    signals = [signal.getsignal(number) for number in signal.valid_signals()]
    return dict(os.environ), os.getcwd(), signals, threading.enumerate()

def import_all():
    for name in [name for name in sys.modules if name.partition(".")[0] == "raycrnn"]:
        del sys.modules[name]
    for module in sys.argv[1:]:
        importlib.import_module("raycrnn." + module)

import_all()
before = state()
import_all()
assert state() == before
assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
sys.exit("loaded: " + " ".join({"torch", "ray"} & sys.modules.keys()))
"""


def loaded_by_importing(modules: list[str]) -> set[str]:
    """Which of torch and ray a fresh Python holds after importing modules, which must do nothing else."""
    command = [sys.executable, "-c", IMPORT_TWICE, *modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == ""
    assert done.stderr.startswith("loaded: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return set(done.stderr.split()[1:])


def test_importing_floor_0_loads_neither_torch_nor_ray_and_has_no_effect():
    assert loaded_by_importing(modules_on(0)) == set()


def test_importing_floors_1_and_2_loads_no_ray_and_has_no_effect():
    assert loaded_by_importing(modules_on(0, 1, 2)) == {"torch"}


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="floors 0 to 2 are tested where Ray is not installed too; this test imports them all",
)
def test_importing_everything_starts_no_ray_and_has_no_effect():
    assert loaded_by_importing(modules_on(0, 1, 2, 3, 4)) == {"torch", "ray"}
