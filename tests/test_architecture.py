"""The architecture rules: package order, what may import torch and Ray, sizes, and tests that mirror the packages."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import raycrnn

SOURCE = Path(raycrnn.__file__).parent
TESTS = Path(__file__).parent

VERBS = {"check", "train", "evaluate", "predict", "tune", "serve", "export"}
ORDER = (
    {"errors", "console", "metrics"},
    {"cli", "storage", "config"},
    {"data"},
    {"language"},
    {"model"},
    {"cluster"},
    {"ingest"},
    {"training", "prediction", "serving", "exporting"},
    {"tuning", "evaluation", "checking"},
    {"folds"},
    VERBS,
    {"tools", "bench", "__main__"},
)
"""A package or top-level module imports only from its own set and from the sets before it."""

WITHOUT_TORCH_OR_RAY = {"errors", "console", "cli", "metrics", "storage", "config", "data", "language"}
WITHOUT_RAY = {
    "model",
    "exporting",
    "training.learner",
    "training.optimizer",
    "training.validation",
    "training.checkpoint",
    "serving.service",
    "serving.api",
    "serving.batcher",
    "serving.limits",
}
RE_EXPORTING = {"config", "storage", "cluster"}
"""Packages whose `__init__` re-exports their public functions; the others' are empty."""

RAY_INTERNALS = "cluster.ray_internals"
MOST_LINES = {"file": 400, "verb": 150, "class": 250, "function": 60}


@cache
def modules() -> dict[str, Path]:
    """Return the files by their dotted names below raycrnn; a package has its own name, raycrnn itself is left out."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts != ("__init__",):
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def package_of(module: str) -> str:
    return module.partition(".")[0]


def position(package: str) -> int:
    return next(number for number, packages in enumerate(ORDER) if package in packages)


def imported_names(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Yield the dotted names of all that a file imports, at any depth, including the names of `from` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


@cache
def imports_of(module: str) -> set[str]:
    path = modules()[module]
    return set(imported_names(tree_of(module), ["raycrnn", *path.relative_to(SOURCE).parts[:-1]]))


@cache
def project_imports_of(module: str) -> set[str]:
    """Return the raycrnn modules that a module imports, such as `data.image` (for a name, the one that defines it)."""
    found = set()
    for name in imports_of(module):
        parts = name.split(".")
        if parts[0] != "raycrnn":
            continue
        for length in range(len(parts), 1, -1):
            if (candidate := ".".join(parts[1:length])) in modules():
                found.add(candidate)
                break
    return found - {module}


def in_named_set(module: str, named: set[str]) -> bool:
    return module in named or package_of(module) in named


def test_imports_are_found_at_any_depth():
    source = """
import raycrnn.data.image
import torch as t
from raycrnn.model import ctc, crnn as network
from raycrnn.config import load
from . import batch_order
from ..data import image
def later():
    if True:
        from ray.train import RunConfig
"""
    assert set(imported_names(ast.parse(source), ["raycrnn", "bench"])) == {
        "raycrnn.data.image",
        "torch",
        "raycrnn.model.ctc",
        "raycrnn.model.crnn",
        "raycrnn.config.load",
        "raycrnn.bench.batch_order",
        "ray.train.RunConfig",
    }


def test_every_package_is_in_the_order_and_every_named_module_exists():
    assert {package_of(module) for module in modules()} == set().union(*ORDER)
    assert sum(map(len, ORDER)) == len(set().union(*ORDER))
    assert set(modules()) >= WITHOUT_TORCH_OR_RAY | WITHOUT_RAY | RE_EXPORTING | VERBS | {RAY_INTERNALS}


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_from_its_own_set_and_those_before_it(module):
    limit = position(package_of(module))
    later = {name for name in project_imports_of(module) if position(package_of(name)) > limit}
    assert not later, f"{module} imports {sorted(later)}, which come after it"


def test_no_import_cycle_between_files():
    assert_no_cycle({module: project_imports_of(module) for module in modules()})


def test_no_import_cycle_between_packages():
    graph: dict[str, set[str]] = {}
    for module in modules():
        others = {package_of(name) for name in project_imports_of(module)} - {package_of(module)}
        graph.setdefault(package_of(module), set()).update(others)
    assert_no_cycle(graph)


def assert_no_cycle(graph: dict[str, set[str]]) -> None:
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")
    assert set(order) == set(graph)


@pytest.mark.parametrize(
    ("named", "forbidden"), [(WITHOUT_TORCH_OR_RAY, {"torch", "ray"}), (WITHOUT_RAY, {"ray"})], ids=["both", "ray"]
)
def test_listed_modules_do_not_import_torch_or_ray(named, forbidden):
    found = {
        module: forbidden & {name.partition(".")[0] for name in imports_of(module)}
        for module in modules()
        if in_named_set(module, named)
    }
    assert not {module: names for module, names in found.items() if names}


def private_ray_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names of Ray that a file imports or reads as attributes of `ray`."""
    dotted = list(imported_names(tree, []))
    dotted += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for name in dotted:
        first, *rest = name.split(".")
        if first == "ray" and any(part.startswith("_") and not part.endswith("__") for part in rest):
            yield name


def test_private_names_of_ray_are_found():
    source = """
import ray._raylet
from ray._private import services
from ray.serve.context import _get_global_client
from ray.data import Dataset
ray._private.worker.print_to_stdstream = None
ray.nodes()
"""
    assert set(private_ray_names(ast.parse(source))) == {
        "ray._raylet",
        "ray._private.services",
        "ray.serve.context._get_global_client",
        "ray._private.worker.print_to_stdstream",
        "ray._private.worker",
        "ray._private",
    }


def test_private_names_of_ray_are_used_in_one_module():
    found = {module: sorted(private_ray_names(tree_of(module))) for module in modules() if module != RAY_INTERNALS}
    assert not {module: names for module, names in found.items() if names}


def test_every_function_on_private_names_of_ray_has_a_contract_test():
    tested = (TESTS / "cluster" / "test_ray_internals.py").read_text(encoding="utf-8")
    functions = [node for node in tree_of(RAY_INTERNALS).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    uses = [node.name for node in functions if next(private_ray_names(node), None)]
    assert uses
    assert not [name for name in uses if name not in tested]


def test_only_main_bench_and_tests_import_a_verb():
    allowed = {"__main__", "bench"}
    found = {module: project_imports_of(module) & VERBS for module in modules() if package_of(module) not in allowed}
    assert not {module: verbs for module, verbs in found.items() if verbs}


def line_counts() -> Iterator[tuple[str, str, int]]:
    """Yield (kind, name, lines) of every file, class and function."""
    for module, path in modules().items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        yield "verb" if module in VERBS else "file", module, lines
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                yield kind, f"{module}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_classes_and_functions_are_short():
    long = [(name, lines) for kind, name, lines in line_counts() if lines > MOST_LINES[kind]]
    assert not long


def test_class_names_are_unique():
    names = [node.name for module in modules() for node in ast.walk(tree_of(module)) if isinstance(node, ast.ClassDef)]
    assert not [name for name, count in Counter(names).items() if count > 1]


def test_only_the_listed_packages_re_export_names():
    packages = {module for module, path in modules().items() if path.name == "__init__.py"}
    filled = {package for package in packages if modules()[package].read_text(encoding="utf-8")}
    assert filled - {"bench"} == RE_EXPORTING


def test_tests_mirror_the_packages():
    """There is a folder for each package, and besides them those for the files of clusters and for several machines."""
    packages = {module for module, path in modules().items() if path.name == "__init__.py"}
    folders = {".".join(path.parent.relative_to(TESTS).parts) for path in TESTS.glob("*/**/test_*.py")}
    assert folders - {"deploy", "multinode"} == packages


# Twice: the effects of the imported libraries themselves come with the first import.
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


def loaded_by_importing(names: list[str]) -> set[str]:
    """Import modules in a new Python without other effects, and return which of torch and ray are loaded then."""
    command = [sys.executable, "-c", IMPORT_TWICE, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == ""
    assert done.stderr.startswith("loaded: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return set(done.stderr.split()[1:])


def test_importing_the_lowest_packages_loads_neither_torch_nor_ray_and_has_no_effect():
    assert loaded_by_importing([name for name in modules() if in_named_set(name, WITHOUT_TORCH_OR_RAY)]) == set()


def test_importing_learning_reading_and_serving_loads_no_ray_and_has_no_effect():
    assert loaded_by_importing([name for name in modules() if in_named_set(name, WITHOUT_RAY)]) == {"torch"}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed, and this test imports all")
def test_importing_everything_starts_no_ray_and_has_no_effect():
    assert loaded_by_importing(list(modules())) == {"torch", "ray"}


def test_verbs_log_under_the_name_of_the_package():
    """`python -m raycrnn.predict` runs the file as `__main__`, and a logger of that name has no handler."""
    by_name = [verb for verb in VERBS if "getLogger(__name__)" in modules()[verb].read_text(encoding="utf-8")]
    assert not by_name
