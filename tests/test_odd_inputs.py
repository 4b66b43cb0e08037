"""How odd inputs are tried: nothing is right that was not found."""

import json
import subprocess
from pathlib import Path

from benchmarks import odd_inputs
from tests.conftest import tiny_model


def write_inputs(folder: Path) -> None:
    """Some odd inputs, with what is right for each."""
    folder.mkdir()
    completion = {"completion": "[a|b]", "format": "repaired", "tags": ["a", "b"]}
    (folder / "completions.jsonl").write_text(json.dumps(completion) + "\n")
    overrides = ["override\tright", "data.column=no\taccepted", "sampling.temperature=0\texit 2"]
    (folder / "overrides.tsv").write_text("\n".join(overrides) + "\n")
    (folder / "0123").mkdir()
    (folder / "0123" / "a.jsonl").write_text('{"text": "A lock lifts boats."}\n{"text": "A mill grinds."}\n')
    (folder / "UPPER.JSONL").write_text('{"text": "A lock lifts boats."}\n')


def test_an_odd_input_is_right_only_where_all_is_as_it_should_be(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs")
    bench = odd_inputs.Bench(tmp_path / "inputs", tmp_path, tiny_model())
    wrong = {"completion": "[a]", "format": "repaired", "tags": ["a"]}
    with (bench.folder / "completions.jsonl").open("a") as more:
        more.write(json.dumps(wrong) + "\n")
    assert [(trial.found, trial.ok) for trial in odd_inputs.try_completions(bench)] == [
        ("repaired [a] [b]", True),
        ("valid [a]", False),
    ]
    cases = {case.input: case for case in odd_inputs.FILES}
    found = [odd_inputs.read_texts(bench, cases[name], name.lower())[0] for name in ("0123", "UPPER.JSONL", "bom.txt")]
    assert found[:2] == ["2 texts", "1 text"]
    assert found[2].startswith("exit 2: error: No such file: ")


def test_a_job_ends_as_it_should_or_is_told_of() -> None:
    def job(status: int, said: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], status, said)

    right = "exit 2: not in utf-8 ... data.encoding"
    said = "error: a.csv is not in utf-8.\n  Set data.encoding.\n"
    assert odd_inputs.ended(job(2, said), right) == right
    assert odd_inputs.ended(job(1, said), right) == "exit 1: error: a.csv is not in utf-8."
    assert odd_inputs.ended(job(2, "error: another\n  mend\n"), right) == "exit 2: error: another"
    assert odd_inputs.ended(job(2, f"Traceback of it\n{said}"), right) == "exit 2: Traceback of it"
    assert odd_inputs.ended(job(0, ""), "exit 0") == "exit 0"
