"""Structure: who may import whom, how long a module may be, and what the command line may load."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
ROOMS = ["configs", "store", "cluster", "generation", "scoring", "training", "evaluation", "semtag"]
MAY_IMPORT = {room: {*ROOMS[: place + 1]} for place, room in enumerate(ROOMS)}
MAY_IMPORT["evaluation"] -= {"training"}
# Links are not followed, so each module is looked at once.
PRODUCT = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports_of(path: Path) -> set[str]:
    """The names of the modules that a module imports, with dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_of(imports: set[str]) -> set[str]:
    """The rooms that the names lie in: `semtag.store.lease` in store, `semtag.pipeline` in semtag."""
    parts = [name.split(".") for name in imports]
    return {own[1] if own[1] in ROOMS else "semtag" for own in parts if own[0] == "semtag" and len(own) > 1}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_rooms_that_its_own_may_see(path: Path) -> None:
    imports = imports_of(path)
    assert rooms_of(imports) <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    assert not {name.split(".")[0] for name in imports} & {*ROOMS[:-1]}  # `store.lease` would be a second copy


def test_rooms_are_told_from_names() -> None:
    assert rooms_of({"semtag.store.lease", "semtag.pipeline.steps_of", "numpy"}) == {"store", "semtag"}


def test_semtag_links_to_each_room() -> None:
    links = {path.name: str(path.readlink()) for path in (ROOT / "semtag").iterdir() if path.is_symlink()}
    assert links == {room: f"../{room}" for room in ROOMS[:-1]}


def tracked() -> list[Path]:
    """All modules of the checkout, those of tests and benchmarks included."""
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in files.split()]


def test_no_module_is_over_300_lines() -> None:
    long = {path: count for path in tracked() if (count := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_no_function_is_over_40_lines() -> None:
    assert [one for path in tracked() for one in long_functions(path)] == []


def long_functions(path: Path) -> list[str]:
    """The functions of a module that have more than 40 lines, with their decorators aside."""
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTION))
    return [f"{path}: {one.name}" for one in functions if (one.end_lineno or 0) - one.lineno >= 40]


def test_a_long_function_is_found(tmp_path: Path) -> None:
    for lines, found in ((40, 0), (41, 1)):
        (tmp_path / "module.py").write_text("def f():\n" + "    x = 1\n" * (lines - 1))
        assert len(long_functions(tmp_path / "module.py")) == found


# Imports all modules by the names that code uses, then looks for a file that was loaded twice.
LOAD_ALL = """
import importlib, sys
from collections import Counter
from pathlib import Path

for name in sys.argv[1:]:
    importlib.import_module(name)
loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
files = Counter(Path(file).resolve() for file in loaded if file)
ours = [file for file in files if file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts]
assert len(ours) > 100, ours
print(*[file for file in ours if files[file] > 1])
"""


def test_no_module_is_loaded_under_two_names() -> None:
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in PRODUCT if not path.name.startswith("__")]
    names = [".".join(own if own[0] == "semtag" else ("semtag", *own)) for own in parts]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_command_line_loads_no_machine_learning() -> None:
    code = "import sys, semtag.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {"torch", "ray", "vllm", "transformers", "trl", "numpy", "pyarrow", "datasets"}


# Who joins paths below a run by hand, and why.
JOINERS = {
    "store/locations.py": "it fetches any folder of a store",
    "store/run_dir.py": "it names what is half-written, scratch or a lock, and copies logs",
    "semtag/tag_job.py": "a tagging job lies in a folder of its own, which is no run",
    "semtag/tag_corpus.py": "a tagging job lies in a folder of its own, which is no run",
}


def joins_below_a_run(path: Path) -> list[int]:
    """Lines that join something to `.path` or `.local_dir`, by a slash or in a string."""

    def is_run(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in ("path", "local_dir")

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


@pytest.mark.parametrize("line", ["run.path / 'ranked'", "self.run.local_dir / f'{x}'", "f'{run.path}/ranked'"])
def test_a_path_by_hand_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f"x = 1\ny = {line}\n")
    assert joins_below_a_run(tmp_path / "module.py") == [2]


# Which functions may give an open dict, and why. StepCounts, what a step counted, is metadata and goes everywhere.
OPEN_DICTS = {
    "configs/load.py": ["_read_shipped", "_read_yaml", "flatten"],  # the values of a YAML file
    "store/lease.py": ["_newest"],  # the sign in a store, which another version may have written
    "store/manifest.py": ["as_json"],  # JSON for a file
    "store/parquet.py": ["read_rows"],  # rows as Arrow gives them
    "store/run_dir.py": ["result_settings"],  # keys of the config with their values
    "generation/cells.py": ["rows_of"],  # rows of the data
    "generation/typed.py": ["features_of", "rows_of_dataset"],  # the same
    "generation/source_state.py": ["_in_store", "_states", "_states_below", "source_state"],  # JSON for a file
    "generation/sampler.py": ["engine_arguments"],  # of vLLM's engine
    "scoring/pipeline.py": ["_sampler_pool", "_scorer_pool"],  # arguments of Ray's map_batches
    "scoring/records.py": ["as_row"],  # for Arrow
    "training/tokenized.py": ["_tokenized"],  # columns for datasets' map
    "training/trainer.py": ["parallelism"],  # arguments of TRL's trainer
    "semtag/tag_columns.py": ["_chunks"],  # rows of the data
    "semtag/tag_job.py": ["_values_of_model", "_values_of_run"],  # of a config
}
ALIAS = re.compile(r"^(\w+) = .*dict\[str, (?:Any|dict\[str, Any\])\]", re.MULTILINE)


def gives_open_dicts(path: Path) -> list[str]:
    """The functions of a module that return dicts of anything, by that name or by one that the module gives them."""
    code, found = path.read_text(), list[str]()
    aliases = {*ALIAS.findall(code)} - {"StepCounts"}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, FUNCTION) and node.returns is not None:
            annotation = ast.unparse(node.returns)
            if "dict[str, Any]" in annotation or {*re.findall(r"\w+", annotation)} & aliases:
                found.append(node.name)
    return sorted({*found})


def test_functions_give_records_and_no_open_dicts() -> None:
    found = {str(path.relative_to(ROOT)): names for path in PRODUCT if (names := gives_open_dicts(path))}
    assert found == OPEN_DICTS  # equal, so that an exception that is no more goes


@pytest.mark.parametrize("line", ["def f() -> list[dict[str, Any]]: ...", "X = dict[str, Any]\ndef f() -> X: ..."])
def test_an_open_dict_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(line)
    assert gives_open_dicts(tmp_path / "module.py") == ["f"]


COMPREHENSION = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def nested_comprehensions(path: Path) -> list[int]:
    """Return the lines of a module where a comprehension holds another comprehension."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        inside = [part for part in ast.walk(node) if isinstance(part, COMPREHENSION)]
        if isinstance(node, COMPREHENSION) and len(inside) > 1:
            found.append(node.lineno)
    return found


def test_no_comprehension_holds_another() -> None:
    assert {path: lines for path in PRODUCT if (lines := nested_comprehensions(path))} == {}


@pytest.mark.parametrize("line", ["[[y for y in x] for x in z]", "{x: y for x in [y for y in z]}"])
def test_a_nested_comprehension_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f"a = [x for x in y]\nb = {line}\n")
    assert nested_comprehensions(tmp_path / "module.py") == [2]


def test_only_tests_and_benchmarks_make_weights() -> None:
    makers = re.compile(r"\bfrom_config\(|\b(?:normal|uniform|zeros|ones)_\(|\bLlamaConfig\(|\binit_weights\(")
    assert {str(path): found for path in PRODUCT if (found := makers.findall(path.read_text()))} == {}
    assert makers.findall("torch.nn.init.normal_(weight)") and makers.findall("AutoModel.from_config(config)")
