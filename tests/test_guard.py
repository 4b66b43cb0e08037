"""Engines that die: the text that kills them is found, and costs no other."""

import os
from pathlib import Path
from typing import Any

import psutil

from cluster.parquet import RowWriter, read_rows
from cluster.progress import Progress
from cluster.session import ray_session
from configs.load import load_config
from generation.guard import DEATHS_IN_A_ROW, GROUP, MOST_DEATHS, GuardedSampler, _Ledger, groups_of
from generation.records import TEXT
from scoring.rank_texts import sample_and_score
from tests.conftest import ROOT, TINY


class Vulnerable(GuardedSampler):
    """Its engine is killed, for real, whenever a text says so."""

    async def _candidates(self, row: dict[str, Any], ids: list[int]) -> list[dict[str, Any]]:
        if "poison" in row["text"]:
            for child in psutil.Process(os.getpid()).children(recursive=True):
                child.kill()
        return await super()._candidates(row, ids)


def rank(texts: list[str], base: Path, folder: Path) -> list[dict[str, Any]]:
    config = load_config(ROOT / "configs" / "demo.yaml", [*TINY, "sampling.batch_size=4"])
    with RowWriter(folder / "texts.parquet", TEXT) as out:
        for number, text in enumerate(texts):
            out.write({"text_id": number, "text": text, "article": None, "meta": "{}"})
    with ray_session(config):
        sample_and_score(
            folder / "texts.parquet",
            folder / "rows",
            config,
            str(base),
            None,
            ["sampled"],
            Progress("rank", "texts"),
            folder / "ids",
            Vulnerable,
        )
    return sorted(read_rows(folder / "rows"), key=lambda row: row["text_id"])


def test_a_text_that_kills_engines_costs_no_other(finished_run: Path, tmp_path: Path) -> None:
    texts = [f"Text {number} about a bridge." for number in range(14)]
    texts[5] = "A poison for engines."
    rows = rank(texts, finished_run / "base", tmp_path)
    assert [row["text_id"] for row in rows] == list(range(14))
    assert [row["text_id"] for row in rows if row["reason"]] == [5]
    assert (rows[5]["reason"], rows[5]["candidates"]) == ("kills_engine", [])
    assert all(len(row["candidates"]) == 3 for row in rows if row["text_id"] != 5)


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
