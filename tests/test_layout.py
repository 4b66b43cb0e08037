"""Where the files of a run lie, what its steps are called, and in which order they come."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from semtag.cli import main
from semtag.configs.load import known_keys, load_config
from semtag.configs.schema import Config
from semtag.pipeline import steps_of
from semtag.store.layout import RunLayout, Step
from semtag.store.locations import place_at
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES
from tests.conftest import ROOT

GAINED, NOTHING = {"value": 0.1, "low": 0.05, "high": 0.15}, {"value": 0.0, "low": -0.005, "high": 0.005}


@pytest.mark.parametrize("step", [Step("texts"), Step("evaluate"), Step("rank", 1), Step("validate", 12)])
def test_a_step_is_known_by_its_name(step: Step) -> None:
    assert Step.of(step.name) == step


def test_names_of_steps() -> None:
    assert [Step("texts").name, Step("rank", 1).name, Step("train", 12).name] == ["texts", "rank-1", "train-12"]


def test_every_key_that_shapes_a_stage_is_one_of_the_config() -> None:
    known = list(known_keys())
    for key in {key for stage in STAGES.values() for key in stage.keys}:
        assert any(name.startswith(key) for name in known), key
    assert [name for name, stage in STAGES.items() if not find_spec(stage.module)] == []


def test_every_file_of_a_run_has_a_place_of_its_own(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run", tmp_path / "local")
    rounds = [layout.round(number) for number in (1, 2)]
    places = [place for files in (layout, *rounds) for place in vars(files).values()]
    inner = [place for place in places if place not in (layout.folder, layout.local)]
    assert len(set(inner)) == len(inner)
    assert all(place.is_relative_to(layout.folder) or place.is_relative_to(layout.local) for place in inner)
    first, second = (
        {str(place).replace(f"round-{n + 1}", "round") for place in vars(rounds[n]).values()} for n in (0, 1)
    )
    assert first == second
    assert {place.relative_to(layout.folder).parts[0] for place in (rounds[0].ranked, rounds[0].merged)} == {"round-1"}


def test_what_only_this_machine_needs_lies_on_it() -> None:
    layout = RunLayout(place_at("s3://bucket/runs/demo"), Path("local"))
    for place in (layout.logs, layout.round(2).training, layout.round(2).checkpoints, layout.round(2).tensorboard):
        assert place.parts[0] == "local"
    assert str(layout.round(2).merged) == "s3://bucket/runs/demo/round-2/merged"
    assert str(layout.log("rank-2")) == "local/logs/rank-2.log"


def test_rounds_that_reuse_texts_share_a_file(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path, tmp_path)
    assert layout.train_texts(3, reuse=True) == layout.train_texts(1, reuse=False) == layout.train_texts(1, reuse=True)
    assert layout.train_texts(3, reuse=False).name == "train-3.parquet"


def test_what_killed_attempts_leave_is_that_of_their_round(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path, tmp_path)
    assert layout.unfinished(Step("rank", 2)) == [layout.round(2).sampled.parent]
    assert layout.round(2).sampled_ids.parent == layout.round(2).sampled.parent
    assert layout.unfinished(Step("train", 2)) == [layout.round(2).training]
    assert layout.unfinished(Step("texts")) == layout.unfinished(Step("pairs", 2)) == []


def arguments(root: Path, *overrides: str) -> list[str]:
    return [str(ROOT / "configs" / "demo.yaml"), f"run.root={root}", "model.base=a/b", "rounds.count=2", *overrides]


def run_with(root: Path, *overrides: str, validated: dict[str, float] | None = None) -> tuple[RunDir, Config]:
    """A run whose first round is done, with that gain."""
    demo, *settings = arguments(root, *overrides)
    config = load_config(demo, settings)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    if validated:
        for step in steps_of(run, config)[:5]:
            run.begin(step, config)
            run.finish(step, {"gain": validated} if step.stage == "validate" else {}, {})
    return run, config


def names(run: RunDir, config: Config) -> list[str]:
    return [step.name for step in steps_of(run, config)]


def test_the_steps_of_two_rounds(tmp_path: Path) -> None:
    first = ["texts", "rank-1", "pairs-1", "train-1", "validate-1"]
    both = [*first, "rank-2", "pairs-2", "train-2", "validate-2", "evaluate"]
    assert names(*run_with(tmp_path / "new")) == both
    assert names(*run_with(tmp_path / "gained", validated=GAINED)) == both
    assert names(*run_with(tmp_path / "nothing", validated=NOTHING)) == [*first, "evaluate"]
    unvalidated = [name for name in both if "validate" not in name]
    assert names(*run_with(tmp_path / "unvalidated", "rounds.validation=0")) == unvalidated


@pytest.mark.parametrize(
    ("command", "validated", "said"),
    [
        ("pairs", None, "The step pairs-1 needs texts, rank-1, which"),
        ("train", None, "The step train-1 needs texts, rank-1, pairs-1, which"),
        ("evaluate", None, "Do `semtag rank` first, or all with `semtag run`."),
        ("train --round 2", GAINED, "The step train-2 needs rank-2, pairs-2, which"),
        ("evaluate", GAINED, "Do `semtag rank --round 2` first, or all with `semtag run`."),
        ("pairs --round 3", GAINED, "There is no round 3: the last one is 2."),
        ("rank --round 2", NOTHING, "There is no round 2: the last one is 1."),
    ],
)
def test_a_step_asks_for_those_before_it(
    command: str, validated: dict[str, float] | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(tmp_path, validated=validated)
    name, *flags = command.split()
    assert main([name, *arguments(tmp_path), *flags]) == 2
    assert said in capsys.readouterr().err


def test_validation_is_done_by_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, config = run_with(tmp_path)
    for step in steps_of(run, config)[:4]:
        run.begin(step, config)
        run.finish(step, {}, {})
    assert main(["rank", *arguments(tmp_path), "--round", "2"]) == 2
    said = capsys.readouterr().err
    assert "The step rank-2 needs validate-1, which" in said and "semtag validate" not in said
    assert "Do `semtag run`, which validates as well." in said
