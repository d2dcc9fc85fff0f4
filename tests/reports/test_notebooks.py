"""The notebooks as they are committed: clean, short, parameterized."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
STAGES = ("01", "02", "03", "04", "05")  # the others are over runs
STAGE_CALL = re.compile(r"^(?:data|respond|judge|train|evaluate)\.run\(run, iteration\)$", re.MULTILINE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_clean_short_and_parameterized(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    text = "\n".join(cell.source for cell in code)
    tree = ast.parse(text)  # no magics either
    nodes = list(ast.walk(tree))
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in nodes)
    assert imported_packages(nodes) <= {"isrdpo", "pandas"}
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 110
    assert len(STAGE_CALL.findall(text)) == path.name.startswith(STAGES)
    assert any("## Checks" in cell.source for cell in notebook.cells)
    as_json = json.dumps(json.loads(path.read_text()), indent=1, ensure_ascii=False) + "\n"
    assert path.read_text() == as_json, "written by another tool's rules"


def imported_packages(nodes: list[ast.AST]) -> set[str]:
    """The top-level packages that a notebook imports."""
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_explained(path: Path) -> None:
    import papermill

    parameters = papermill.inspect_notebook(str(path))
    assert not path.name.startswith(STAGES) or {"run_dir", "iteration"} <= set(parameters)
    assert all(entry["help"].strip() for entry in parameters.values())
