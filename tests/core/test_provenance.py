"""Where a run was made: versions and the machine, without anything secret."""

import sys
from pathlib import Path

import pytest

from isrdpo.core import params, provenance, records
from isrdpo.core.runs import Run

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
TOKEN = "hf_" + "z" * 30


def test_provenance_has_versions_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/isrdpo", "run", "x", f"model.path={TOKEN}"])
    record = provenance.collect()
    assert record["packages"]["torch"]
    assert record["decoder"] == "PyAV"
    assert record["threads"] >= 1
    hidden = ("isrdpo run x 'model.path=(hidden)'", "isrdpo run x model.path=(hidden)")
    assert record["command"] in hidden
    assert "zzz" not in str(record)
    assert "hf_" not in str(record)


def test_a_change_of_machine_is_noted_once(tmp_path: Path) -> None:
    run = Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}"]))
    path = run.folder / "provenance.json"
    run.note_machine()
    assert "later" not in records.read_json(path)
    records.write_json(path, records.read_json(path) | {"python": "3.99"})
    run.note_machine()
    run.note_machine()
    record = records.read_json(path)
    assert record["python"] == "3.99"
    assert len(record["later"]) == 1
    assert "later" not in record["later"][0]
