"""The proof of pairs: in parts that are read once, and of the choice by hashes."""

from collections.abc import Iterator
from typing import Any

import pytest

from semtag import verify_pairs
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.scoring.pairs import FORMAT
from semtag.store.locations import Place
from semtag.store.parquet import read_tables
from semtag.store.run_dir import RunDir
from semtag.verify_pairs import Selection
from tests.conftest import ROOT
from tests.tampering import problems
from tests.test_verify import PAIRS, TAMPERED


def test_each_file_is_read_once_however_many_parts_there_are(copy: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, read = copy.layout.round(2), list[Place]()

    def counting(place: Place, columns: list[str] | None = None) -> Iterator[Any]:
        read.append(place)
        return read_tables(place, columns)

    monkeypatch.setattr(verify_pairs, "read_tables", counting)
    monkeypatch.setattr(verify_pairs, "TEXTS_IN_MEMORY", 3)
    assert problems(copy) == {}
    assert [read.count(place) for place in (layout.ranked, layout.lists, layout.pairs)] == [1, 1, 2]  # and the cap
    for kind in ("a pair of no ranked text", "swapped messages", "a list twice"):
        TAMPERED[kind][1](copy)
    in_parts = problems(copy)[PAIRS]
    monkeypatch.undo()
    assert sorted(in_parts) == sorted(problems(copy)[PAIRS])


def chosen(config: Config, *hashes: tuple[int, bool]) -> list[str]:
    """What is wrong where format pairs of these hashes are there or not, beside two similarity pairs."""
    selection = Selection(config, 10)
    for number in (1, 2):
        selection.add(1, number, f"similar {number}", True)
    for hash_, there in hashes:
        selection.add(FORMAT, hash_, f"pair {hash_}", there)
    return [*selection.problems()]


def test_which_pairs_stay_is_decided_by_their_hashes() -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", ["pairs.format_share=0.5"])
    assert chosen(config, (7, True), (-3, True)) == []
    assert chosen(config, (7, True), (-3, True), (8, False)) == []
    [problem] = chosen(config, (7, True), (-3, False), (8, True))
    assert problem.startswith("pair -3 is left out and pair 8 is kept")
    [problem] = chosen(config, (7, True), (-3, True), (8, True))
    assert problem.startswith("group 0 (0: format pairs) has 3 pairs; of the 3 possible pairs, 2 stay")
