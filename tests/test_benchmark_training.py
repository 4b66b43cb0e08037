"""benchmarks.training: all contenders do the same work, and the table says what it came to; no test measures speed."""

import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training
from benchmarks.trainers import WARM_UP, as_pairs, make_lists, run_contender
from semtag.configs.errors import UserError


def small_lists(contender: str, prompt_tokens: int = 20) -> Namespace:
    """Two lists a step of four completions of five tokens each."""
    return Namespace(contender=contender, shape="tiny", dtype="float32", vocabulary=700, lists=2, k=4, steps=2,
                     prompt_tokens=prompt_tokens, completion_tokens=5, gradient_checkpointing=False)  # fmt: skip


# TRL cuts at 1,024 tokens unless told otherwise.
@pytest.mark.parametrize(
    ("contender", "prompt_tokens"),
    [*((name, 20) for name in training.CONTENDERS), ("trl", 1024), ("trl, cached", 1024)],
)
def test_every_trainer_takes_its_steps_on_whole_completions(contender: str, prompt_tokens: int, tmp_path: Path) -> None:
    found = run_contender(small_lists(contender, prompt_tokens), tmp_path)
    assert len(found["seconds"]) == 2
    assert min(found["seconds"]) > 0
    assert found["scored"] == [2 * 4 * 5] * (WARM_UP + 2)


def test_a_contender_that_cuts_completions_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from trl.trainer import dpo_trainer

    class Cutting(dpo_trainer.DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> Any:
            self.max_length = 22
            return super().torch_call(examples)

    monkeypatch.setattr(dpo_trainer, "DataCollatorForPreference", Cutting)
    scored = run_contender(small_lists("trl"), tmp_path)["scored"]
    assert scored == [2 * 4 * 2] * (WARM_UP + 2)
    with pytest.raises(UserError, match=r"trl scored \[16, 16, 16, 16\] completion tokens"):
        training.check_same_work("trl", scored, due=40)
    training.check_same_work("ours", [40, 40], due=40)


def test_the_ideal_ratio_by_hand() -> None:
    assert training.ideal_ratio(8, 200, 15) == pytest.approx(1720 / 320)
    assert training.ideal_ratio(2, 256, 64) == pytest.approx(640 / 384)


def test_the_table_has_all_lists_for_all_prompts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def once(arguments: Namespace, contender: str, k: int, _: int) -> dict[str, Any]:
        scored = arguments.lists * k * arguments.completion_tokens
        return {"seconds": [4.0 if contender == "separate" else 2.0], "peak_mb": 50, "scored": [scored]}

    monkeypatch.setattr(training, "in_a_process", once)
    monkeypatch.setattr(sys, "argv", ["training", "--rounds", "1"])
    training.main()
    shown = capsys.readouterr().out.rpartition("| K |")[2]  # the last table
    cells = [line.split(" | ") for line in shown.splitlines() if re.match(r"\| [28] \|", line)]
    assert [(k.strip("| "), prompt) for k, prompt, *_ in cells] == [
        ("2", "64"), ("2", "200"), ("2", "1,024"), ("8", "64"), ("8", "200"), ("8", "1,024"),
    ]  # fmt: skip
    assert cells[4][6:8] == ["2", "0.372"]  # 2 of 5.375


def test_dtypes_are_compared_in_alternating_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([(2.0, 50), (4.0, 100), (8.0, 100), (3.0, 60)])  # the second round has float32 first

    def once(*_: Any) -> dict[str, Any]:
        seconds, peak = next(taken)
        return {"seconds": [seconds], "peak_mb": peak, "scored": [240]}

    monkeypatch.setattr(training, "in_a_process", once)
    row = training.measure(Namespace(rounds=2, compare_dtypes=True, lists=8, completion_tokens=15), 2, 200)
    assert row["seconds"] == {"bfloat16": [2.0, 3.0], "float32": [4.0, 8.0]}
    assert (row["seconds_ratio"], row["memory_ratio"]) == (pytest.approx(0.4375), pytest.approx(0.55))
    assert "| 2 | 200 | 2.5 | 6 | 0.438 | 0.55 |" in training.table_of_dtypes({"rows": [row]})


def test_lists_and_pairs_hold_the_same_completions() -> None:
    lists = make_lists(small_lists("ours"))
    pairs = as_pairs(lists[:1])
    assert [one["prompt_ids"] for one in pairs] == [lists[0]["prompt_ids"]] * 2
    assert [ids for one in pairs for ids in (one["chosen_ids"], one["rejected_ids"])] == lists[0]["completion_ids"]
    assert {len(ids) for ids in lists[0]["completion_ids"]} == {5}


def test_padding_by_hand() -> None:
    arguments = Namespace(lists=3)
    assert training.padding(arguments, 1100) == 0  # each longer than a row
    assert training.padding(arguments, 500) == 0  # two in one row of 1,024 and one alone would be a quarter
