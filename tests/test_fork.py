"""A run with other settings takes over what they do not change, and comes to what it would have come to alone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import semtag as semtag_in_python
from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.forking import config_of_fork, fork, lines_of, plan_fork
from semtag.generation.records import REJECT, TEXT, candidates_of, from_table
from semtag.scoring.embedder import Embedder
from semtag.scoring.given import has_left, sampling_identity, write_candidates
from semtag.scoring.rank import _given
from semtag.scoring.records import RANKED
from semtag.scoring.similarity import score_texts
from semtag.store.layout import Step
from semtag.store.locations import put_in_place, write_json, write_text
from semtag.store.parquet import RowWriter, read_rows, read_tables
from semtag.store.rounds import delivered_round
from semtag.store.run_dir import RunDir
from tests.conftest import semtag
from tests.test_cli import fails
from tests.test_criteria import BM25

ROUNDS = [f"{stage}-{number}" for number in (1, 2) for stage in ("rank", "pairs", "train", "validate")]
# The packaged model that judges in the demo scores, so that no model judges what it rewarded.
OTHER_SCORER = ["scoring.model=wordllama-l2-256", "evaluation.second_model=null"]


@pytest.mark.parametrize(
    ("overrides", "taken"),
    [
        (["evaluation.examples=3"], ["texts", *ROUNDS]),
        (["training.epochs=3"], ["texts", "rank-1", "pairs-1"]),
        (["pairs.strategy=all_pairs"], ["texts", "rank-1"]),
        (["sampling.temperature=0.7"], ["texts"]),
        (OTHER_SCORER, ["texts"]),
        (["sampling.batch_size=3", "cluster.object_store_gb=1"], ["texts", *ROUNDS, "evaluate"]),
    ],
)
def test_a_fork_takes_over_the_steps_up_to_the_first_that_differs(
    overrides: list[str], taken: list[str], finished_run: Path
) -> None:
    source = RunDir(finished_run)
    config = config_of_fork(source, "other", overrides)
    plan = plan_fork(source, config)
    assert [step.name for step in plan.taken] == taken
    begins = "begins at" in "\n".join(lines_of(source, config, plan))
    assert begins == (plan.first is not None) == (taken[-1] != "evaluate")
    assert plan.rescored == (Step("rank", 1) if overrides is OTHER_SCORER else None)


def test_what_cannot_be_a_fork_is_told(finished_run: Path, tmp_path: Path) -> None:
    source = RunDir(finished_run)
    with pytest.raises(UserError, match=r"would take nothing over.\n  run.seed: 0 in .*, 1 now"):
        plan_fork(source, config_of_fork(source, "other", ["run.seed=1"]))
    with pytest.raises(UserError, match="cannot be a fork of itself"):
        config_of_fork(source, "demo")
    with pytest.raises(UserError, match="is not a run directory"):
        config_of_fork(RunDir(tmp_path), "other")
    assert "Did you mean training.beta?" in fails("fork", str(finished_run), "other", "training.betta=1")


def test_other_pairs_cost_no_sampling(copy: RunDir) -> None:
    """The fork stands alone: it verifies after its source is gone."""
    root = copy.local_dir.parent
    said = semtag("fork", str(copy.path), "other", "pairs.strategy=all_pairs", "--dry-run").stdout
    assert "takes over texts, rank-1 of" in said and "pairs.strategy: 'best_vs_worst' in" in said
    assert not (root / "other").exists()
    made = semtag("fork", str(copy.path), "other", "pairs.strategy=all_pairs", "--only")
    assert made.returncode == 0, made.stderr
    assert f"next: semtag run {root / 'other' / 'config.yaml'}" in made.stdout
    other = RunDir(root / "other")
    theirs, own = (sorted(run.layout.round(1).ranked.iterdir()) for run in (copy, other))
    assert [file.stat().st_ino for file in theirs] == [file.stat().st_ino for file in own]  # linked, not copied
    records = other.manifest().steps
    assert {name: record.taken_from for name, record in records.items()} == dict.fromkeys(
        ["texts", "rank-1"], str(copy.path)
    )
    shutil.rmtree(copy.local_dir)
    done = semtag("pairs", str(other.layout.config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert semtag("verify", str(other.path)).returncode == 0
    kinds = [row["kind"] for row in read_rows(other.layout.round(1).pairs)]
    assert len(kinds) > len({row["text_id"] for row in read_rows(other.layout.round(1).pairs)})  # all pairs of a text


def test_a_fork_that_was_ended_is_made_again_and_a_made_one_resumes(copy: RunDir) -> None:
    config = config_of_fork(copy, "other", ["evaluation.examples=3"])
    said: list[str] = []
    run = fork(copy, config, said.append)
    before = run.layout.manifest.read_bytes()
    assert fork(copy, config, said.append).layout.manifest.read_bytes() == before
    assert said[-1] == f"{run.path} was made before, and resumes"
    write_json(run.layout.manifest, run.manifest().as_json() | {"steps": {}})  # as a kill leaves it
    (run.layout.round(1).merged / "config.json").unlink()
    again = fork(copy, config, said.append)
    assert again.manifest().steps == json_steps(before)
    assert (run.layout.round(1).merged / "config.json").exists()
    assert run.ledger().root == {name: units for name, units in copy.ledger().root.items() if name != "evaluate"}
    assert not list(run.local_dir.rglob(".*.partial"))


def test_from_python(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fork that changes nothing that shapes a result has all of its source, tagger and report as well."""
    run = semtag_in_python.fork(finished_run, "whole", run={"root": str(tmp_path)}, cluster={"object_store_gb": 1.0})
    said = capsys.readouterr().out
    assert "all steps are taken over" in said and "All is done already" in said and "tuned" in said
    assert run.path == tmp_path / "whole" and delivered_round(run) == delivered_round(RunDir(finished_run))
    assert len(semtag_in_python.load_pairs(run, 1)) == len(semtag_in_python.load_pairs(finished_run, 1)) > 0


def json_steps(manifest: bytes) -> Any:
    return type(RunDir("x").manifest()).model_validate_json(manifest).steps


@pytest.mark.cluster
def test_another_scorer_starts_no_engine(finished_run: Path, tmp_path: Path) -> None:
    source = RunDir(finished_run)
    config = config_of_fork(source, "other", [f"run.root={tmp_path}", *OTHER_SCORER])
    run = fork(source, config, print)
    done = semtag("rank", str(run.layout.config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the candidates that were taken over are scored" in done.stdout
    assert not [line for line in done.stdout.splitlines() if "tokens/s" in line]
    assert semtag("verify", str(run.path)).returncode == 0
    given = tmp_path / "given"
    given.mkdir()
    texts = source.layout.train_texts(1, reuse=False)
    write_candidates(source.layout.round(1), texts, given)
    sampled = [text for table in read_tables(given) for text in from_table(table)]
    embedder = Embedder(config.scoring)
    expected = {one.text_id: one.candidates for one in score_texts(sampled, embedder.texts, embedder.tags)}
    layout = run.layout.round(1)
    found = {row["text_id"]: candidates_of(row) for row in read_rows(layout.ranked)}
    assert found == expected
    before = {row["text_id"]: row["candidates"][0]["score"] for row in read_rows(source.layout.round(1).ranked)}
    assert all(found[id_][0].score != score for id_, score in before.items())
    assert not layout.given.exists() and not layout.given_identity.exists()


@pytest.mark.cluster
def test_the_demo_is_ranked_by_a_scorer_of_ones_own(finished_run: Path, tmp_path: Path) -> None:
    """By a fork, which samples nothing; two scorers with weights, in the real pipeline."""
    (tmp_path / "mine.py").write_text(BM25)
    bm25 = f"{tmp_path / 'mine.py'}:BM25"
    scorers = f"scoring.scorers=[{{by: embedding, weight: 2}}, {{by: '{bm25}', weight: 0.1}}]"
    made = semtag("fork", str(finished_run), "weighted", f"run.root={tmp_path}", scorers, "--only")
    assert made.returncode == 0, made.stderr
    run = RunDir(tmp_path / "weighted")
    done = semtag("rank", str(run.layout.config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert semtag("verify", str(run.path)).returncode == 0
    theirs = {row["text_id"]: row["candidates"] for row in read_rows(RunDir(finished_run).layout.round(1).ranked)}
    for row in read_rows(run.layout.round(1).ranked):
        cosines = {one["sample"]: one["score"] for one in theirs[row["text_id"]]}
        assert {one["sample"]: one["scores"][0] for one in row["candidates"]} == cosines


@pytest.fixture
def ranked(tmp_path: Path) -> Iterator[RunDir]:
    """A run whose round 1 ranked one text, and rejected one before and one at scoring."""
    run = RunDir(tmp_path / "run")
    run.create()
    layout = run.layout.round(1)
    texts = [{"text_id": id_, "text": f"text {id_}", "article": f"article {id_}", "meta": "{}"} for id_ in (1, 2, 3)]
    candidates = [
        {"sample": 1, "completion": "[a]", "tags": ["a"], "format": "valid", "score": 0.5, "rank": 0, "token_ids": [4]},
        {"sample": 0, "completion": "a", "tags": [], "format": "invalid", "reason": "no_tags"},
    ]
    prompt = [{"role": "user", "content": "x"}]
    row = {"text_id": 1, "text": "text 1", "meta": "{}", "prompt": prompt, "prompt_ids": [7], "candidates": candidates}
    files = {
        run.layout.train_texts(1, reuse=False): (TEXT, texts),
        layout.ranked / "part.parquet": (RANKED, [row]),
        layout.rejects / "rows.parquet": (
            REJECT,
            [
                {"stage": "rank", "reason": reason, "detail": "why", "row": json.dumps(text)}
                for reason, text in zip(("too_long", "not_a_number"), texts[1:], strict=True)
            ],
        ),
    }
    for file, (schema, rows) in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with RowWriter(file, schema) as out:
            for one in rows:
                out.write(one)
    yield run


def test_candidates_are_given_as_they_were_sampled(ranked: RunDir, tmp_path: Path) -> None:
    """A text that scoring rejected has no candidates any more, so the fork samples it."""
    texts = ranked.layout.train_texts(1, reuse=False)
    folder = tmp_path / "given"
    folder.mkdir()
    assert write_candidates(ranked.layout.round(1), texts, folder) == 2
    first, second = (one for table in read_tables(folder) for one in from_table(table))
    assert (first.text_id, first.article, first.prompt_ids, first.reason) == (1, "article 1", [7], None)
    assert [(one.sample, one.score, one.rank, one.token_ids) for one in first.candidates] == [
        (1, None, None, [4]),
        (0, None, None, None),
    ]
    assert (second.text_id, second.article, second.reason, second.detail) == (2, "article 2", "too_long", "why")
    assert [has_left(folder, np.array(done)) for done in ([], [1], [1, 2], [1, 2, 3])] == [True, True, False, False]


def test_candidates_by_other_settings_are_not_used(ranked: RunDir, tmp_path: Path, finished_run: Path) -> None:
    """A fork whose ranking has not begun may still be given other settings of sampling."""
    config, layout = RunDir(finished_run).config(), ranked.layout.round(1)
    folder = tmp_path / "given"
    folder.mkdir()
    write_candidates(layout, ranked.layout.train_texts(1, reuse=False), folder)
    layout.given.parent.mkdir()
    put_in_place(folder, layout.given)
    write_text(layout.given_identity, sampling_identity(config, 1))
    hotter = config.model_copy(update={"sampling": config.sampling.model_copy(update={"temperature": 0.9})})
    other_scorer = config.model_copy(update={"scoring": config.scoring.model_copy(update={"tags_prefix": "x"})})
    with Progress("rank", "texts") as progress:
        assert _given(layout, config, 1, progress) == _given(layout, other_scorer, 1, progress) == layout.given
        assert _given(layout, hotter, 1, progress) is None
