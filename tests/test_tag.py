"""`semtag tag`: every row of a corpus comes out once, in its order, whatever happens on the way."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.family import title_of
from semtag.cluster.progress import Counts
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.generation.records import SAMPLED, Candidate, SampledText, sampled_counts
from semtag.generation.vote import majority_vote
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from semtag.tag_corpus import ROW, _joined
from semtag.tag_files import WRITERS
from semtag.tag_job import tagger_config, tagger_identity
from semtag.tagger import COLUMNS, Tagger
from tests.conftest import ROOT, TEXTS, readme_lines, semtag, tiny_model
from tests.test_cli import fails

WORDS = ["red", "Red", "blue", "green", "grey", "white"]


def voters(*lists: list[str]) -> list[Candidate]:
    return [Candidate(place, "", tags=tags) for place, tags in enumerate(lists)]


def test_votes_by_hand() -> None:
    won = majority_vote(voters(["red", "blue"], ["Red", "green"], ["blue", "red"], [], ["grey"]))
    assert (won.tags, won.format, won.answer) == (["red", "blue"], "valid", "[red][blue]")
    assert majority_vote(voters(["red", "blue"], ["Red"], ["blue"], ["red"])).tags == ["red"]  # lengths 2, 1, 1, 1
    won = majority_vote(voters(["red", "blue"], ["Red", "green"], ["blue", "red"]))
    assert won.tags == ["red", "blue"]
    assert majority_vote(voters(["a", "b"], ["c", "d"])).tags == ["a", "c"]  # equal votes: further in front, then first
    assert majority_vote(voters(["b", "a"], ["a", "c"])).tags == ["a", "b"]
    assert majority_vote(voters([], [])).format == "invalid"
    assert sampled_counts([SampledText(1, "", None, "{}", "tag", candidates=[won])]) == Counts(
        texts=1, candidates=1, valid=1
    )  # no tokens of its own


@example([["red"], ["blue"], ["blue", "red"]])  # most name red, and as many blue, which stands further in front
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=3, unique_by=str.casefold), max_size=6))
def test_only_what_was_named_is_elected_and_nothing_twice(lists: list[list[str]]) -> None:
    tags = majority_vote(voters(*lists)).tags
    assert set(tags) <= {tag for own in lists for tag in own}
    assert len({tag.casefold() for tag in tags}) == len(tags)
    assert bool(tags) == any(lists)
    votes = Counter(tag.casefold() for own in lists for tag in own)
    elected = {tag.casefold() for tag in tags}
    least = min((votes[tag] for tag in elected), default=0)
    assert all(count <= least for tag, count in votes.items() if tag not in elected)


@pytest.mark.parametrize("name", ["news #2.jsonl", "0123/", "2024-06-01", "yes", "my: news.jsonl", "{a}.jsonl"])
def test_the_name_of_the_data_is_no_yaml(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    run.start(load_config(ROOT / "configs" / "demo.yaml"))
    for tagger in (str(run.path), tiny_model()):
        assert tagger_config(tagger, name, base=True).data == Data(path=name, held_out=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 texts, one of them twice, between a null, an empty one, a broken line and one that is too long."""
    file = tmp_path_factory.mktemp("corpus") / "news.jsonl"
    texts = [f"{text} It was painted {place} times." for place in range(3) for text in TEXTS[:30]]
    rows: list[Any] = [{"body": text, "number": place, "by": {"name": "é"}} for place, text in enumerate(texts)]
    rows[40:40] = [{"body": None, "number": -1}, {"body": " \t", "number": -2}, {"body": "word " * 3000, "number": -3}]
    lines = [json.dumps(row) for row in [*rows, rows[7]]]
    file.write_text("\n".join([*lines[:60], "{broken", *lines[60:]]) + "\n", encoding="utf-8")
    return file


def tagged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


TAGGING = ["prompt.max_tags=2", "prompt.max_tag_words=1", "sampling.max_tokens=40", "sampling.dtype=float32"]


def kill_amid_blocks(command: list[str], finished: Path) -> None:
    """Start the command, and kill all its processes once it has finished a block."""
    job = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not any("pending" not in file.name for file in finished.glob("*/*.parquet")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()


@pytest.mark.cluster
def test_a_killed_job_goes_on_and_ends_as_if_nothing_had_happened(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tags.jsonl"
    options = [
        "--data",
        str(corpus),
        "--constrained",
        "--score",
        "--answers",
        str(tmp_path / "kept"),
        "data.column=body",
    ]
    # A model alone comes without a run's settings.
    options += [*TAGGING, "scoring.model=all-MiniLM-L6-v2", "sampling.batch_size=10", "sampling.in_flight=1"]
    command = [sys.executable, "-m", "semtag", "tag", tiny_model(), *options, "--out", str(out)]
    finished = tmp_path / "tags.jsonl.unfinished" / "finished"
    kill_amid_blocks(command, finished)
    assert not out.exists()
    said = fails("tag", tiny_model(), *options, "--votes", "3", "--out", str(out))
    assert "votes: 1 when it began, 3 now" in said
    again = semtag("tag", tiny_model(), *options, "--out", str(out))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "were tagged before" in again.stdout
    assert not finished.parent.exists()
    rows = tagged(out)
    assert [row["number"] for row in rows] == [*range(90), 7]
    assert rows[7] | {"tags": 0} == rows[-1] | {"tags": 0} and rows[7]["tags"] == rows[-1]["tags"]
    assert "valid" in {row["tags_format"] for row in rows} <= {"valid", "repaired", "invalid"}
    malformed = sum(row["tags_format"] != "valid" for row in rows)
    assert ("defects: " in again.stdout) == bool(malformed), again.stdout
    assert all(row["by"] == {"name": "é"} and (row["tags"] or row["tags_format"] == "invalid") for row in rows)
    assert all(-1 <= row["tags_score"] <= 1 if row["tags"] else row["tags_score"] is None for row in rows)
    rejects = tagged(tmp_path / "tags.jsonl.rejects.jsonl")
    assert [row["reason"] for row in rejects] == ["null_text", "empty_text", "too_long", "broken_line"]
    assert rejects[2]["row"]["number"] == -3
    check_tagger_agrees(corpus, rows, tmp_path)
    check_new_rows_alone_are_asked_about(corpus, rows, options, tmp_path)
    assert "exists already" in fails("tag", tiny_model(), *options, "--out", str(out))


def check_new_rows_alone_are_asked_about(
    corpus: Path, rows: list[dict[str, Any]], options: list[str], folder: Path
) -> None:
    """The file in another order with ten more rows: all answers but theirs are there, but for the rejected one's."""
    lines = corpus.read_text(encoding="utf-8").splitlines()[::-1]
    lines += [json.dumps({"body": f"{text} It is new.", "number": 1000 + n}) for n, text in enumerate(TEXTS[:10])]
    (folder / "grown.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = [str(folder / "grown.jsonl") if one == str(corpus) else one for one in options]
    done = semtag("tag", tiny_model(), *options, "--out", str(folder / "grown.tags.jsonl"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "90 of 101 texts have answers by this tagger" in done.stdout and "tagging 11 texts" in done.stdout
    again = tagged(folder / "grown.tags.jsonl")
    assert [row["number"] for row in again] == [7, *reversed(range(90)), *range(1000, 1010)]
    assert [*reversed(again[:91])] == [*rows]
    assert len(list((folder / "kept").glob("*/*.parquet"))) == 2


def test_a_tagger_is_known_by_its_weights_and_by_how_it_is_asked(tmp_path: Path) -> None:
    def identity(model: Path, *overrides: str, votes: int = 1) -> str:
        return tagger_identity(tagger_config(str(model), "x.jsonl", False, overrides), {"votes": votes})

    one, moved = tmp_path / "one", tmp_path / "moved"
    shutil.copytree(tiny_model(), one)
    shutil.copytree(one, moved)
    assert identity(one) == identity(moved) == identity(one, "sampling.batch_size=7")
    assert len({identity(one), identity(one, votes=3), identity(one, "prompt.max_tags=2")}) == 3
    [weights] = moved.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert identity(one) != identity(moved)


# What the README's lines are followed by, within their `with`.
MORE = """
    import datasets, json
    texts = json.load(open("texts.json"))
    answers = [[[*one.tags], one.format, one.reason] for one in tagger(texts)]
    dataset = tagger(datasets.Dataset.from_dict({"body": texts[:9]}), "body")
    json.dump([answers, dataset.to_dict()], open("answers.json", "w"))
"""


def check_tagger_agrees(corpus: Path, rows: list[dict[str, Any]], folder: Path) -> None:
    """Run the README's lines on a Tagger as a script without a guard; its answers must be those of `semtag tag`."""
    sections = {"prompt": {"max_tags": 2, "max_tag_words": 1}, "sampling": {"max_tokens": 40, "dtype": "float32"}}
    lines, named = readme_lines()
    lines = lines.replace(named["run"], f"run = {tiny_model()!r}").replace(named["pairs"], "")
    # A random model is malformed without the grammar.
    lines = lines.replace("Tagger(run)", f"Tagger(run, constrained=True, **{sections})")
    (folder / "script.py").write_text(lines.rstrip() + MORE, encoding="utf-8")
    given = [row["body"] for row in map(read_line, corpus.read_text(encoding="utf-8").splitlines()) if row]
    (folder / "texts.json").write_text(json.dumps(given), encoding="utf-8")
    command, path = [sys.executable, "script.py"], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers, dataset = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    expected = iter([[row["tags"], row["tags_format"]] for row in rows])
    odd = {40: "null_text", 41: "empty_text", 42: "too_long"}
    for place, (tags, format_, reason) in enumerate(answers):
        assert [tags, format_] == ([[], "invalid"] if place in odd else next(expected))
        assert (reason is None) == (format_ == "valid") and (place not in odd or reason == odd[place])
    assert next(expected, None) is None
    assert dataset["body"] == given[:9]
    assert [*zip(*(dataset[name] for name in COLUMNS), strict=True)] == [(*one,) for one in answers[:9]]
    assert not [one for one in psutil.process_iter() if "semtag.tagger_process" in title_of(one)]


def read_line(line: str) -> dict[str, Any] | None:
    """A line of JSON, or None where it is broken."""
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return row


def test_what_is_no_tagger_is_told_before_a_process_is_started(tmp_path: Path) -> None:
    for model, how, said in (
        (tmp_path, {}, "neither a run directory nor a model"),
        (tmp_path / "none", {"votes": 0}, "votes is 0"),
    ):
        with pytest.raises(UserError, match=said):
            Tagger(model, **how)


def test_a_text_without_an_answer_gets_no_other_ones(tmp_path: Path) -> None:
    work, folder = RunDir(tmp_path), tmp_path / "texts"
    folder.mkdir()
    with RowWriter(folder / "rows.parquet", ROW) as rows:
        for id_ in (3, 1, 2):
            rows.write(
                {
                    "text_ids": [id_],
                    "whole": True,
                    "reason": None,
                    "row": json.dumps({"number": id_, "text": f"text  {id_}"}),
                }
            )
    with RowWriter(tmp_path / "some.parquet", SAMPLED) as some, RowWriter(tmp_path / "more.parquet", SAMPLED) as more:
        for out, id_ in ((some, 3), (some, 1), (more, 2)):
            candidates = [vars(Candidate(0, f"of {id_}"))]
            out.write(dict.fromkeys(SAMPLED.names) | {"text_id": id_, "text": f"text {id_}", "candidates": candidates})
    whole = _joined(work, [tmp_path / "some.parquet", tmp_path / "more.parquet"], "text", tmp_path)
    found = [(row["number"], answer.candidate and answer.candidate.completion) for row, answer in whole]
    assert found == [(number, f"of {number}") for number in (3, 1, 2)]
    for lacking in ("some", "more"):
        with pytest.raises(UserError, match="lacks answers"):
            list(_joined(work, [tmp_path / f"{lacking}.parquet"], "text", tmp_path))


def test_a_text_of_the_same_id_gets_no_other_ones_answer(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with RowWriter(tmp_path / "texts" / "rows.parquet", ROW) as rows:
        for text in ("a  mill", "a boat"):
            rows.write({"text_ids": [1], "whole": True, "reason": None, "row": json.dumps({"text": text})})
    with RowWriter(tmp_path / "answers.parquet", SAMPLED) as answers:
        answers.write(
            dict.fromkeys(SAMPLED.names) | {"text_id": 1, "text": "a mill", "candidates": [vars(Candidate(0, "x"))]}
        )
    found = _joined(RunDir(tmp_path), [tmp_path / "answers.parquet"], "text", tmp_path)
    assert [answer.reason for _, answer in found] == [None, "other_text_of_same_id"]


def test_csv_holds_answers_and_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "columns.json").write_text(json.dumps(["text", "more"]))
    found = {"tags_format": "valid", "tags_score": 0.5}
    rows = [({"text": 'a "b",\nc'}, found | {"tags": ["x", "y z"]}), ({}, None)]
    rows.append(({"text": "d", "more": [1]}, found | {"tags": []}))
    WRITERS[".csv"](tmp_path / "rows.csv", iter(rows), tmp_path)
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as back:
        written = {"tags_format": "valid", "tags_score": "0.5"}
        assert list(csv.DictReader(back)) == [
            {"text": 'a "b",\nc', "more": "", "tags": "[x][y z]"} | written,
            {"text": "d", "more": "[1]", "tags": ""} | written,
        ]


def test_what_cannot_be_tagged_is_said(tmp_path: Path, corpus: Path) -> None:
    data = ["--data", str(corpus)]
    assert "ends in .jsonl" in fails("tag", tiny_model(), *data, "--out", str(tmp_path / "tags.xlsx"))
    assert "neither a run directory nor a model" in fails(
        "tag", str(tmp_path), *data, "--out", str(tmp_path / "tags.jsonl")
    )
    assert "No such file" in fails("tag", tiny_model(), "--data", "no.jsonl", "--out", str(tmp_path / "a.jsonl"))
    taken = tmp_path / "taken.jsonl"
    taken.write_text('{"text": "a word", "tags": 1}\n')
    assert "['tags']" in fails("tag", tiny_model(), "--data", str(taken), "--out", str(tmp_path / "b.jsonl"))
