"""How a text that kills engines is found. With real engines: benchmarks.poison, and test_resume for one that dies."""

from typing import Any

from generation.guard import DEATHS_IN_A_ROW, GROUP, MOST_DEATHS, Suspects, groups_of


def test_deaths_in_a_row_are_counted_until_a_text_is_done() -> None:
    ledger = Suspects()
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
