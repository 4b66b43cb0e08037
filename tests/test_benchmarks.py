"""The benchmarks' command lines and arithmetic; no test measures speed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kills, poison, scale
from benchmarks.contest import demo_texts, markdown, median_ratio, order
from benchmarks.generation import Finished, check_same_work, steady, summary
from benchmarks.generation import table as generation_table
from benchmarks.scoring import batches, check_agreement, make_texts, pairs_of
from benchmarks.scoring import table as scoring_table
from benchmarks.small_models import SMALL
from semtag.configs.errors import UserError
from semtag.generation.parse import parse
from semtag.scoring.records import RANKED
from semtag.store.parquet import RowWriter
from tests.conftest import ROOT, tiny_model
from tests.test_odd_inputs import write_inputs

SCRIPTS = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
SCRIPTS.remove("contenders")  # a part of `generation`
SCRIPTS.remove("odd_jobs")  # a part of `odd_inputs`
# The demo by a model of random weights.
RANDOM = [
    "rounds.each=[{training: {loss: likelihood}}, {}]",
    "evaluation.arms=[rounds, yake]",
]
RANDOM += ["rounds.least_gain=0", "data.limit=60", "training.dtype=float32", "training.max_steps=2", *SMALL]
# The arguments of each script at its smallest size; {root} is a folder of its own.
SMALLEST = {
    "cheats": ["{root}/runs/demo-0"],
    "chaos": ["--root", "{root}/runs", "--kills", "2", "--pause", "1", "--texts", "300", "--json", "{root}/out.json"],
    "coverage": ["--simulations", "20", "--bound", "0.5"],
    "generation": ["--model", "random", "--texts", "340", "--max-tokens", "4", "--rounds", "1", "prompt.examples=[]"],
    "many_pairs": ["{root}/runs/scale-2000"],
    "odd_inputs": ["{root}/inputs", "--root", "{root}/runs", "--only", "completions", "overrides"],
    "poison": ["--root", "{root}/runs", "--rows", "200", "--deadly", "1"],
    "scale": ["--root", "{root}/runs", "--small", "1000", "--texts", "2000"],
    "scoring": ["--texts", "64", "--rounds", "1"],
    "seeds": ["configs/demo.yaml", "--root", "{root}/runs", "--seeds", "0", "--json", "{root}/out.json"],
    "training": ["--shape", "tiny", "--k", "2", "--prompt-tokens", "20", "--steps", "2", "--rounds", "1"],
}
HAVE_TESTS_OF_THEIR_OWN = {"chaos", "cheats", "many_pairs", "scale", "seeds"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches_and_starts_nothing(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert f"python -m benchmarks.{name}" in shown
    assert "--json" in shown


def test_every_script_has_a_smallest_size() -> None:
    assert set(SCRIPTS) == SMALLEST.keys()


def run_smallest(name: str, root: Path, *more: str) -> str:
    """What a script prints that ends well."""
    arguments = [*(one.format(root=root) for one in SMALLEST[name]), *more]
    if name == "seeds":
        arguments += [*RANDOM, f"model.base={tiny_model()}"]
    if name == "odd_inputs":
        write_inputs(root / "inputs")
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.benchmark
@pytest.mark.parametrize("name", sorted(SMALLEST.keys() - HAVE_TESTS_OF_THEIR_OWN))
def test_it_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    assert "| --- |" in run_smallest(name, tmp_path)


@pytest.mark.benchmark
def test_many_pairs_are_those_that_scale_leaves(tmp_path: Path) -> None:
    assert "speed ratio" in run_smallest("scale", tmp_path)
    assert "| again, to the next step |" in run_smallest("many_pairs", tmp_path)


@pytest.mark.benchmark
def test_cheats_are_tried_on_a_run_of_a_seed(tmp_path: Path) -> None:
    assert "| tuned | base |" in run_smallest("seeds", tmp_path)
    assert "| the best candidate |" in run_smallest("cheats", tmp_path)


def test_every_contender_goes_first_in_turn() -> None:
    assert [order("abc", round_) for round_ in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip


def test_a_slow_round_leaves_the_ratio_alone() -> None:
    assert median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_a_table_shows_few_digits() -> None:
    assert markdown(["name", "rate"], [("ours", 12345.678), ("raw", 0.98765), ("x", 123.45), ("y", 2000)]) == (
        "| name | rate |\n| --- | --- |\n| ours | 12,346 |\n| raw | 0.988 |\n| x | 123.5 |\n| y | 2,000 |"
    )


def test_texts_beyond_the_demos_are_numbered_and_distinct() -> None:
    texts = demo_texts(1700)
    assert len(set(texts)) == 1700
    assert texts[840] == f"{texts[0]} 1"
    assert texts[1680] == f"{texts[0]} 2"


def test_the_steady_state_leaves_out_filling_and_emptying() -> None:
    # One request of two candidates and 10 tokens a second; before and after, four candidates that take their time.
    ends = [50.0, 100.0, *(101.0 + i for i in range(10)), 200.0, 300.0]
    found = steady([Finished(end, 2, 10) for end in reversed(ends)], in_flight=4, samples=4)
    assert found["steady_candidates"] == 20
    assert found["steady_seconds"] == pytest.approx(10)
    assert found["tokens_per_second"] == pytest.approx(10)
    assert found["texts_per_second"] == pytest.approx(0.5)
    assert (found["candidates"], found["tokens"]) == (28, 140)


def test_requests_of_one_candidate_count_as_parts_of_a_text() -> None:
    whole = steady([Finished(float(i), 4, 40) for i in range(100)], in_flight=16, samples=4)
    parts = steady([Finished(float(i), 1, 10) for i in range(100) for _ in range(4)], in_flight=16, samples=4)
    assert whole == parts
    assert whole["texts_per_second"] == 1.0


def test_too_few_texts_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(UserError, match="--texts to 20 or more"):
        steady([Finished(float(i), 4, 40) for i in range(15)], in_flight=16, samples=4)
    assert steady([Finished(float(i), 4, 40) for i in range(20)], in_flight=16, samples=4)["steady_candidates"] == 48


def result(rate: float, **changes: Any) -> dict[str, Any]:
    same = {"engine": {"max_num_seqs": 256}, "candidates": 400, "tokens": 1000, "tokens_per_second": rate}
    return same | {"texts_per_second": rate / 4, "steady_seconds": 1.0, "process_seconds": 9.0} | changes


def test_other_work_is_no_contest() -> None:
    check_same_work({"raw": result(1), "ours": result(2, tokens=1009)})
    with pytest.raises(UserError, match="set otherwise"):
        check_same_work({"raw": result(1), "ours": result(2, engine={"max_num_seqs": 128})})
    with pytest.raises(UserError, match="of 1011 tokens"):
        check_same_work({"raw": result(1), "ours": result(2, tokens=1011)})
    with pytest.raises(UserError, match="drew 399 candidates"):
        check_same_work({"raw": result(1), "ours": result(2, candidates=399)})


def test_ratios_are_ours_over_the_others() -> None:
    rounds = [{"ours": result(99.0), "raw": result(100.0), "ray_data_llm": result(50.0)}]
    found = summary(rounds)
    assert found["ratio_to_raw"] == pytest.approx(0.99)
    assert found["ratio_to_ray_data_llm"] == pytest.approx(1.98)
    assert "| raw | 100.0 | 25 | 1 | 9 | 0.99 |" in generation_table(found)
    assert set(summary([{"ours": result(1.0)}])) == {"medians"}


def test_candidates_are_the_same_each_time_and_repeat_somewhat() -> None:
    texts = demo_texts(200)
    made = make_texts(texts, samples=4, seed=0)
    assert made == make_texts(texts, samples=4, seed=0) != make_texts(texts, samples=4, seed=1)
    assert [text.text for text in made] == texts
    tags = [tags for _, tags in pairs_of(made)]
    assert len(tags) == 800
    assert all(tags)
    assert 0.5 < len(set(tags)) / len(tags) < 0.98


def test_batches_hold_every_row_once() -> None:
    texts = make_texts(demo_texts(10), samples=2, seed=0)
    assert [len(batch) for batch in batches(texts, 4)] == [4, 4, 2]
    assert [text for batch in batches(texts, 4) for text in batch] == texts


def test_contenders_that_score_otherwise_are_caught() -> None:
    check_agreement({"raw": [0.5, 0.25], "ours": [0.5, 0.250001]})
    with pytest.raises(AssertionError, match="ours: scores differ"):
        check_agreement({"raw": [0.5, 0.25], "ours": [0.5, 0.2501]})


def test_the_scoring_table_names_every_contender() -> None:
    shown = scoring_table(
        {
            "seconds": {"ours": [2.0], "raw": [1.9], "naive": [6.0]},
            "texts_per_second": {"ours": 420.0, "raw": 442.1, "naive": 140.0},
            "ratio_to_raw": 0.95,
            "ratio_to_naive": 3.0,
        }
    )
    assert "| ours | 2 | 420.0 |  |" in shown
    assert "| naive | 6 | 140.0 | 3 |" in shown


def test_made_up_words_differ_and_rows_repeat() -> None:
    assert len({scale.word(number) for number in range(scale.WORDS)}) == scale.WORDS
    rows = scale.make_rows(3)
    assert rows == scale.make_rows(3) != scale.make_rows(4)
    formats = Counter(parse(completion).format for row in rows for completion in row["completions"])
    assert sum(formats.values()) == scale.CHUNK * scale.CANDIDATES
    assert 0.88 < formats["valid"] / sum(formats.values()) < 0.92


def test_chaos_sees_what_was_lost_doubled_or_changed(tmp_path: Path) -> None:
    def run(name: str, rows: list[tuple[int, str, float]]) -> Path:
        with RowWriter(tmp_path / f"{name}.parquet", RANKED) as out:
            for id_, completion, score in rows:
                candidate = {"completion": completion, "score": score, "logprob": -score}
                out.write({"text_id": id_, "candidates": [candidate]})
        return tmp_path / f"{name}.parquet"

    calm = run("calm", [(1, "[a]", 0.5), (2, "[b]", 0.5), (3, "[c]", 0.5), (4, "[d]", 0.5)])
    same = run("same", [(4, "[d]", 0.5), (1, "[a]", 0.5), (2, "[b]", 0.5), (3, "[c]", 0.5)])
    stormy = run("stormy", [(1, "[a]", 0.5), (1, "[a]", 0.5), (2, "[x]", 0.5), (3, "[c]", 0.6)])
    assert kills.compare(calm, same) == {"rows": 4, "lost": 0, "twice": 0, "different": 0}
    assert kills.compare(calm, stormy) == {"rows": 4, "lost": 1, "twice": 1, "different": 2}
    assert kills.same([{"scores": [0.5], "margin": None}], [{"scores": [0.5 + 1e-8], "margin": None}])
    assert not kills.same({"rank": 0.5}, {"rank": 0.5 + 1e-8})


def test_poisoned_rows_are_one_in_a_hundred() -> None:
    lines, made = poison.make_lines(1000, deadly=2)
    assert len(lines) == 1000
    assert made == {"deadly": 2, "control": 2, "bytes": 2, "duplicate": 2, "null": 1, "megabyte": 1}
