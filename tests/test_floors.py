"""Which folders a module may import from: those below its own, and its own without circles.

`docs/design.md` describes the floors.
"""

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "packages"

#: From the ground up. A module outside any folder is a room of its own.
FLOORS = {
    "metarl_envs": (
        {"files"},
        {"simulation"},
        {"bodies"},
        {"families"},
        {"core", "checks"},
        {"vector_env", "reward_model", "pages", "freezing"},
        {"env", "evaluation"},
        {"__init__", "cli"},
    ),
    "metarl_agents": (
        {"common", "networks"},
        {"replay", "trials"},
        {"priors", "slbo"},
        {"iwpa"},
        {"algorithms", "registry"},
        {"actors"},
        {"run"},
        {"sweep"},
        {"commands"},
        {"__init__", "cli"},
    ),
}


def modules(package: str) -> dict[str, Path]:
    root = PACKAGES / package / "src" / package
    return {
        ".".join((package, *path.relative_to(root).with_suffix("").parts)): path
        for path in sorted(root.rglob("*.py"))
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, wherever in it; names of types included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from package.folder import module` names a module, `from package.module import name` does not.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
    return {name for name in found if name in known}


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", FLOORS)
def test_modules_import_from_their_own_folder_and_below(package):
    known = modules(package)
    height = {name: floor for floor, rooms in enumerate(FLOORS[package]) for name in rooms}
    assert {room(name) for name in known} == set(height)
    for name, path in known.items():
        for other in imports(path, known):
            same = room(other) == room(name)
            assert same or height[room(other)] < height[room(name)], f"{name} imports {other}"


@pytest.mark.parametrize("package", FLOORS)
def test_no_modules_import_each_other_in_a_circle(package):
    known = modules(package)
    TopologicalSorter({name: imports(path, known) for name, path in known.items()}).prepare()


def test_agents_import_public_names_of_the_suite_only():
    """`metarl_envs` and `metarl_envs.evaluation`, and what the command lines share."""
    allowed = {"metarl_envs", "metarl_envs.evaluation", "metarl_envs.files", "metarl_envs.cli"}
    for name, path in modules("metarl_agents").items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metarl_envs"):
                assert node.module in allowed, f"{name} imports from {node.module}"


@pytest.mark.parametrize("folder", ["benchmarks", "docs"])
def test_scripts_beside_the_packages_import_what_exists(folder):
    """Nothing else runs the longer ones of them."""
    for path in sorted((ROOT / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metarl_"):
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{path} imports {missing} from {node.module}"
