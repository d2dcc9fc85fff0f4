"""The import rule: each package imports only packages before it, in every file and in every function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "isrdpo").rglob("*.py"))
LEVELS = {
    "__init__": 0,
    "core": 1,
    "formats": 2,
    "models": 3,
    "scoring": 3,
    "toybox": 4,
    "stages": 5,
    "reports": 6,
    "loop": 7,
    "study": 7,
    "checks": 7,
    "benchmark": 7,
    "cli": 8,
    "__main__": 9,
}
# What formats, models and scoring must not know, since they know no run.
RUN_MODULES = {"isrdpo.core.runs", "isrdpo.core.pipeline"}
HEAVY = {"torch", "transformers", "trl", "peft", "decord", "openai", "datasets", "papermill"}
# Modules whose job needs torch as soon as they are imported; every other one must answer without it.
TORCH_MODULES = {
    "isrdpo.benchmark",
    "isrdpo.models.auto",
    "isrdpo.models.config_limits",
    "isrdpo.models.dpo",
    "isrdpo.models.dpo_trainer",
    "isrdpo.models.families",
    "isrdpo.models.features",
    "isrdpo.models.hound",
    "isrdpo.models.hound_files",
    "isrdpo.models.hound_layout",
    "isrdpo.models.hound_model",
    "isrdpo.models.hound_processor",
    "isrdpo.models.interface",
    "isrdpo.models.local",
    "isrdpo.models.packing",
    "isrdpo.models.sampling",
    "isrdpo.toybox.base_model",
    "isrdpo.toybox.figures",
    "isrdpo.toybox.losses",
    "isrdpo.toybox.patches",
    "isrdpo.toybox.training_batches",
}


def module_name(path: Path) -> str:
    """The dotted name of a file of the library."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_modules(path: Path) -> set[str]:
    """The library's modules that a file imports, also by `import_module` (there an f-string may follow).

    Imports inside functions count; those under `if TYPE_CHECKING` do not run, and do not.
    """
    tree = ast.parse(path.read_text())
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test):
            block.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            text = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            assert isinstance(text, ast.Constant), f"{path}: import_module of a computed name"
            names.add(text.value)
    return {name for name in names if name.split(".")[0] == "isrdpo"}


def package_of(name: str) -> str:
    """The package (or the top-level module) that a dotted name belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_to_earlier_packages_only(path: Path) -> None:
    own = package_of(module_name(path))
    for name in imported_modules(path):
        other = package_of(name)
        if other not in LEVELS or other == own:
            continue
        assert LEVELS[other] < LEVELS[own], f"{module_name(path)} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name in ("formats", "models", "scoring")], ids=module_name
)
def test_formats_models_and_scoring_know_no_run(path: Path) -> None:
    assert not imported_modules(path) & RUN_MODULES


@pytest.mark.parametrize(
    "path", sorted((ROOT / "isrdpo" / "stages").glob("*.py")), ids=lambda path: path.stem
)
def test_stages_do_not_import_each_other(path: Path) -> None:
    from isrdpo.core.pipeline import ORDER

    others = {f"isrdpo.stages.{name}" for name in ORDER if name != path.stem}
    assert not imported_modules(path) & others


def test_every_package_is_opened_by_one_paragraph() -> None:
    for path in (ROOT / "isrdpo").glob("*/__init__.py"):
        tree = ast.parse(path.read_text())
        assert len(tree.body) == 1 and ast.get_docstring(tree), f"{path}: a docstring and nothing else"
        assert "\n\n" not in (ast.get_docstring(tree) or ""), f"{path}: one paragraph"


@pytest.mark.parametrize(
    "name", sorted({module_name(path) for path in FILES} - TORCH_MODULES - {"isrdpo.__main__"})
)
def test_light_modules_load_nothing_heavy(name: str) -> None:
    code = f"import {name}, sys; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
