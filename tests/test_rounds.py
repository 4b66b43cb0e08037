"""Rounds: where each starts, which is the last, which delivers, and what their configuration says."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.load import dump_config, load_config
from semtag.configs.schema import Config
from semtag.evaluation.validate import validate
from semtag.generation.decoding import greedy
from semtag.generation.records import SAMPLED, TEXT, read_candidate
from semtag.store.layout import Step
from semtag.store.parquet import RowWriter
from semtag.store.rounds import delivered_round, last_round, round_lines, start_of, trained_rounds
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"
# A gain with its 95 % interval.
LITTLE, MUCH = {"value": 0.004, "low": 0.0, "high": 0.0099}, {"value": 0.05, "low": -0.01, "high": 0.11}
UNKNOWN = {"value": None, "low": None, "high": None}


def config_of(root: Path, *overrides: str) -> Config:
    return load_config(DEMO, [f"run.root={root}", "rounds.count=3", *overrides])


def run_of(config: Config, *rounds: dict[str, Any] | None) -> RunDir:
    """A run in which rounds are trained, and validated where that found something."""
    run = RunDir.of(config)
    run.create()
    run.start(config)
    for number, found in enumerate(rounds, start=1):
        for stage, counts in (("train", {}), ("validate", found)):
            if counts is not None:
                run.begin(Step(stage, number), config)
                run.finish(Step(stage, number), counts, {})
    return run


def found(gain: dict[str, float | None], mean_score: float = 0.4) -> dict[str, Any]:
    return {"texts": 30, "well_formed": 0.9, "mean_score": mean_score, "gain": gain}


def test_each_round_starts_from_what_the_one_before_came_to(tmp_path: Path) -> None:
    config = config_of(tmp_path, "model.base=a/b")
    run = RunDir.of(config)
    assert start_of(run, config, 1) == "a/b"
    assert start_of(run, config, 3) == str(run.layout.round(2).merged)


def test_rounds_stop_at_one_that_gained_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert last_round(run_of(config), config) == 3
    assert last_round(run_of(config, found(MUCH)), config) == 3
    run = run_of(config, found(MUCH), found(LITTLE))
    assert last_round(run, config) == 2
    assert last_round(run, config_of(tmp_path, "rounds.least_gain=0.0099")) == 3
    assert last_round(run, config_of(tmp_path, "rounds.count=1")) == 1
    gained, stopped, tagger = round_lines(run, config)
    assert tagger == "the tagger is the model of round 1"
    assert gained == "round 1: 90.0% valid, mean score 0.400, gain +0.050 [-0.010, +0.110] on 30 validation texts"
    assert stopped.endswith("gain +0.004 [+0.000, +0.010] on 30 validation texts; this round gained nothing")


@pytest.mark.parametrize("nothing_known", [{"texts": 0}, None, found(UNKNOWN)])
def test_without_a_figure_no_round_is_the_last(nothing_known: dict[str, Any] | None, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert last_round(run_of(config, nothing_known), config) == 3


def test_the_best_validated_round_delivers(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(UserError, match="holds no tagger yet"):
        delivered_round(run_of(config))
    assert delivered_round(run_of(config, None)) == 1
    run = run_of(config, found(MUCH, 0.5), found(MUCH, 0.6), found(LITTLE, 0.55))
    assert trained_rounds(run) == [1, 2, 3]
    assert delivered_round(run) == 2


def test_without_validation_the_last_trained_round_delivers(tmp_path: Path) -> None:
    config = config_of(tmp_path, "rounds.validation=0")
    run = run_of(config, None, {"texts": 0})
    assert delivered_round(run) == 2 and round_lines(run, config) == []


# -- configuration --------------------------------------------------------------------------------------------

EACH = """rounds.each=[
  {training: {loss: sigmoid, lora: {rank: 4}}, sampling: {temperature: 0.5}},
  {training: {beta: 2}}]"""


def test_a_round_has_its_own_values_and_else_those_of_the_sections(tmp_path: Path) -> None:
    config = config_of(tmp_path, EACH)
    first, second, third = (config.of_round(number) for number in (1, 2, 3))
    assert (first.training.loss, first.training.beta, first.sampling.temperature) == ("sigmoid", 0.1, 0.5)
    assert (first.training.lora.rank, first.training.lora.alpha) == (4, 16)  # the other key of the section stays
    assert (second.training.loss, second.training.beta, second.sampling.temperature) == ("ipo", 2, 0.5)
    assert third == second
    assert config_of(tmp_path, "rounds.each=[]").of_round(3) == config_of(tmp_path, "rounds.each=[]")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_one_key_of_one_round_on_the_command_line(tmp_path: Path) -> None:
    config = config_of(tmp_path, EACH, "rounds.each.0.training.beta=2", "rounds.each.0.training.lora.rank=8")
    assert config.of_round(1).training.beta == 2 and config.of_round(1).training.lora.rank == 8
    assert config.of_round(1).training.loss == "sigmoid"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds.each=[{training: {betta: 2}}]", "Unknown config key training.betta. Did you mean training.beta? (in"),
        (
            "rounds.each=[{}, {training: {beta: 0}}]",
            "training.beta: Input should be greater than 0 (got 0) (in round 2",
        ),
        (
            "rounds.each=[{}, {sampling: {samples: 1}}]",
            "sampling.samples must be at least 2: a pair needs two candidates",
        ),
        ("rounds.each=[{}, {sampling: {samples: 1}}]", "(in round 2)"),
        ("rounds.each=[{pairs: {min_margin: 1}}]", "Unknown config key rounds.each.0.pairs"),
        ("rounds.each.0.training.beta=2", "Unknown config key rounds.each.0.training.beta: the list has 0 items."),
        ("rounds.each.x.training.beta=2", "Unknown config key rounds.each.x.training.beta: the list has 0 items."),
        ("rounds.count=0", "rounds.count: Input should be greater than or equal to 1 (got 0)"),
        ("rounds.texts=both", "rounds.texts: Input should be 'split' or 'reuse'"),
    ],
)
def test_mistakes_in_rounds_are_named(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config_of(tmp_path, "rounds.each=[]", override)
    assert message in str(caught.value)


def test_of_a_mistake_for_all_rounds_the_round_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config_of(tmp_path, EACH, "training.beta=0")
    assert "in round" not in str(caught.value)


# -- validation -----------------------------------------------------------------------------------------------


def answered(folder: Path, answers: dict[int, tuple[str, float] | None]) -> None:
    """Rows as the pipeline writes them: a completion with its score for each text, or none."""
    with RowWriter(folder / "part.parquet", SAMPLED) as out:
        for id_, answer in answers.items():
            candidates = []
            if answer:
                candidate = read_candidate(config_of(folder).prompt, 0, answer[0], "stop")
                candidates = [vars(replace(candidate, score=answer[1]))]
            out.write({"text_id": id_, "text": f"text {id_}", "meta": "{}", "candidates": candidates})


def test_the_gain_of_each_round_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, "model.base=a/b")
    run = RunDir.of(config)
    run.create()
    layout, models = run.layout, list[str]()
    layout.texts.mkdir()
    with RowWriter(layout.validation_texts, TEXT) as out:
        for id_ in range(4):
            out.write({"text_id": id_, "text": f"text {id_}", "article": None, "meta": "{}"})
    written: dict[str, dict[int, tuple[str, float] | None]] = {
        "a/b": {0: ("[a]", 0.4), 1: ("b", 0.0), 2: ("[c][c]", 0.8), 3: None},
        str(layout.round(1).merged): {3: ("[d]", 0.5), 2: ("[c]", 0.7), 1: ("[b]", 0.2), 0: ("[a]", 0.4)},
        str(layout.round(2).merged): {0: ("[a]", 0.6), 1: ("[b", 0.3), 2: ("[c]", 0.7), 3: ("[d]", 0.5)},
    }

    def sample(texts: Path, folder: Path, config: Config, model: str, decodings: Any, progress: Progress) -> None:
        assert texts == layout.validation_texts and decodings == [greedy(config, "greedy")]
        models.append(model)
        answered(folder, written[model])

    monkeypatch.setattr("semtag.evaluation.validate.sample_and_score", sample)
    monkeypatch.setattr("semtag.evaluation.validate.ray_session", contextlib.nullcontext)
    first, second = (validate(run, config, Progress("validate", "answers"), number) for number in (1, 2))
    assert models == list(written)  # the untouched model is asked once
    # Malformed answers count 0: those of the untouched model are 0.4, 0, 0, 0.
    assert (first["texts"], first["well_formed"], second["well_formed"]) == (4, 1.0, 0.75)
    assert first["mean_score"] == pytest.approx((0.4 + 0.2 + 0.7 + 0.5) / 4)
    assert first["gain"]["value"] == pytest.approx((0 + 0.2 + 0.7 + 0.5) / 4)
    assert second["gain"]["value"] == pytest.approx((0.2 - 0.2) / 4)
    assert second["gain"]["low"] < 0 < second["gain"]["high"]


def test_without_validation_texts_nothing_is_asked(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    run = RunDir.of(config)
    run.create()
    run.layout.texts.mkdir()
    RowWriter(run.layout.validation_texts, TEXT).__exit__(None, None, None)
    assert validate(run, config, Progress("validate", "answers"), 1) == {"texts": 0}
