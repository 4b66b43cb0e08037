"""Structure: who may import whom, how long a module may be, and what the command line may load."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["configs", "cluster", "generation", "scoring", "training", "evaluation"]
PRODUCT = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_its_own_folder_or_folders_to_the_left(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imports_of(path) & set(LAYERS[layer + 1 :])


def test_no_module_is_over_300_lines() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    long = {name: count for name in files.split() if (count := len((ROOT / name).read_text().splitlines())) > 300}
    assert long == {}


def test_the_command_line_loads_no_machine_learning() -> None:
    code = "import sys, cluster.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {"torch", "ray", "vllm", "transformers", "trl", "numpy", "pyarrow", "datasets"}


# Who joins paths below a run by hand, and why.
JOINERS = {
    "cluster/places.py": "it fetches any folder of a store",
    "cluster/run_dir.py": "it names what is half-written, scratch or a lock, and copies logs",
    "cluster/tag.py": "a tagging job lies in a folder of its own, which is no run",
    "scoring/tag_texts.py": "a tagging job lies in a folder of its own, which is no run",
}


def joins_below_a_run(path: Path) -> list[int]:
    """Lines that join something to `.path` or `.here`, by a slash or in a string."""

    def is_run(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in ("path", "here")

    def joined(node: ast.AST) -> bool:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return is_run(node.left)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "joinpath":
            return is_run(node.func.value)
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        return any(
            isinstance(part, ast.FormattedValue)
            and is_run(part.value)
            and str(getattr(after, "value", "")).startswith("/")
            for part, after in itertools.pairwise(parts)
        )

    return [node.lineno for node in ast.walk(ast.parse(path.read_text())) if joined(node)]


def test_one_module_knows_where_the_files_of_a_run_lie() -> None:
    found = {str(path.relative_to(ROOT)): lines for path in PRODUCT if (lines := joins_below_a_run(path))}
    assert {name: lines for name, lines in found.items() if name not in JOINERS} == {}
    assert found.keys() == JOINERS.keys()  # an exception that is no more goes


@pytest.mark.parametrize("line", ["run.path / 'ranked'", "self.run.here / f'{x}'", "f'{run.path}/ranked'"])
def test_a_path_by_hand_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f"x = 1\ny = {line}\n")
    assert joins_below_a_run(tmp_path / "module.py") == [2]


def test_only_tests_and_benchmarks_make_weights() -> None:
    makers = re.compile(r"\bfrom_config\(|\b(?:normal|uniform|zeros|ones)_\(|\bLlamaConfig\(|\binit_weights\(")
    assert {str(path): found for path in PRODUCT if (found := makers.findall(path.read_text()))} == {}
    assert makers.findall("torch.nn.init.normal_(weight)") and makers.findall("AutoModel.from_config(config)")
