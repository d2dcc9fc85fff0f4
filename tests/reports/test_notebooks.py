"""The notebooks as they are committed: clean, short, parameterized."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
STAGES = ("01", "02", "03", "04", "05")  # the others are over runs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_clean_short_and_parameterized(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    text = "\n".join(cell.source for cell in code)
    tree = ast.parse(text)  # no magics either
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(tree))
    modules = {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules <= {"isrdpo", "pandas"}
    assert len([line for line in text.splitlines() if line.strip()]) <= 60
    assert len(re.findall(r"^(?:data|respond|judge|train|evaluate)\.run\(run, iteration\)$", text, re.MULTILINE)) == path.name.startswith(STAGES)
    assert any("## Checks" in cell.source for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_explained(path: Path) -> None:
    import papermill

    found = papermill.inspect_notebook(str(path))
    assert not path.name.startswith(STAGES) or {"run_dir", "iteration"} <= set(found)
    assert all(entry["help"].strip() for entry in found.values())
