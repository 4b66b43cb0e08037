"""Engines that die: the text that kills them is found, and costs no other."""

from pathlib import Path
from typing import Any

from benchmarks import poison
from generation.guard import DEATHS_IN_A_ROW, GROUP, MOST_DEATHS, _Ledger, groups_of


def test_every_poison_is_rejected_with_its_reason_and_costs_no_other_row(finished_run: Path, tmp_path: Path) -> None:
    base = f"model.base={finished_run / 'base'}"
    result = poison.run(600, 1, tmp_path, [base, "sampling.batch_size=32", "run.max_rejected=0.05"])
    reasons = {"null_text", "too_long", "empty_text", "invalid_utf8", "duplicate", "kills_engine"}
    assert result["rejects"] == dict.fromkeys(reasons, 1)
    assert (result["ranked"], result["as_expected"], result["verified"]) == (594, True, True)


def test_deaths_in_a_row_are_counted_until_a_text_is_done() -> None:
    ledger = _Ledger()
    ledger.enter(["a", "b"])
    assert [ledger.death() for _ in range(DEATHS_IN_A_ROW)][-1] == DEATHS_IN_A_ROW
    ledger.enter(["a"])
    assert ledger.met(["a", "b", "c"]) == [2, 1, 0]
    ledger.leave(["a"])
    assert ledger.met(["a", "b"]) == [0, 1]
    assert ledger.death() == 1


def test_groups_shrink_with_every_death() -> None:
    rows: list[dict[str, Any]] = [{"text_id": number} for number in range(GROUP + 4)]
    deaths = [0, *[1] * (GROUP + 1), 2, MOST_DEATHS]
    together, groups, given_up = groups_of(rows, deaths)
    assert together == rows[:1]
    assert groups == [rows[1 : GROUP + 1], [rows[GROUP + 1]], [rows[GROUP + 2]]]
    assert given_up == rows[-1:]
