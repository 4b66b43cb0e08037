"""Figures from answers, and a page that escapes what models write."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.parquet import RowWriter
from configs.schema import Evaluation
from evaluation.evaluate import margins
from evaluation.gates import independent
from evaluation.metrics import Answers, compare, examples
from evaluation.report import verdict, write_pages
from scoring.records import PAIR

PICTURES = ("similarity", "training", "defects", "margins")
ATTACK = "<script>alert(1)</script>"


def answer(format_: str, score: float | None, completion: str = "[a]") -> dict[str, Any]:
    reason = None if format_ == "valid" else "extra_text"
    return {"format": format_, "score": score, "completion": completion, "reason": reason, "tags": ["a"]}


@pytest.fixture
def answers() -> Answers:
    base = [answer("valid", 0.4), answer("valid", 0.2), answer("repaired", 0.9), answer("invalid", None, ATTACK)]
    tuned = [answer("valid", 0.5), answer("invalid", None), answer("valid", 0.6), answer("valid", 0.3)]
    return Answers([f"text {i} {ATTACK}" for i in range(4)], base, tuned)


@pytest.fixture
def report(answers: Answers) -> dict[str, Any]:
    figures = compare(answers, 200, 0)
    curve = [{"loss": 1.0, **{f"nats_per_token/{n}": 0.1 for n in ("chosen", "rejected", "margin", "target")}}] * 3
    return {
        "run": "t",
        "held_out_texts": 4,
        "headline": "sampled",
        **{key: figures[key] for key in ("format_rate", "similarity")},
        "decodings": {"sampled": figures, "greedy": figures},
        **independent(answers, Evaluation(resamples=200), 0),
        "examples": examples(answers, 3),
        "curve": curve,
        "margins": {"edges": [0.0, 0.1, 0.2], "counts": [3, 1], "format": 2},
        "ledger": {"rank": {"texts": {"in": 5, "out": 4, "dropped": {"too_long": 1}}}},
        "config": {"training": {"beta": 0.5, "loss": "ipo", "per_token": True}, "prompt": ATTACK},
        "stages": {"train": {"counts": {"references": {"from_sampling": 3, "recomputed": 1}}}},
        "versions": {"ray": "1"},
    }


def test_figures_by_hand(answers: Answers) -> None:
    figures = compare(answers, 200, 0)
    rate = figures["format_rate"]
    assert (rate["base"]["value"], rate["tuned"]["value"]) == (0.5, 0.75)
    assert (rate["only_base"], rate["only_tuned"], rate["mcnemar_p"]) == (1, 2, 1.0)
    assert rate["difference"]["value"] == pytest.approx(0.25)
    assert rate["difference"]["low"] < 0.25 < rate["difference"]["high"]
    both, everything = figures["similarity"]["both_valid"], figures["similarity"]["all_texts"]
    assert (both["texts"], both["difference"]["value"]) == (1, pytest.approx(0.1))
    assert everything["texts"] == 4
    assert everything["base"]["mean"] == pytest.approx(np.mean([0.4, 0.2, 0, 0]))
    assert everything["tuned"]["mean"] == pytest.approx(np.mean([0.5, 0, 0.6, 0.3]))
    assert everything["win_rate"]["value"] == 0.75
    assert figures["defects"]["base"] == {"extra_text": 2}


def test_margins_by_hand(tmp_path: Path) -> None:
    for number, values in enumerate(([0.1, None, 0.9], [0.2, None, 0.5])):
        with RowWriter(tmp_path / f"{number}.parquet", PAIR) as out:
            for value in values:
                out.write(dict.fromkeys(PAIR.names) | {"margin": value})
    found = margins(tmp_path, bins=3)
    assert found["counts"] == [2, 1, 1]
    assert found["edges"] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert found["format"] == 2


def test_examples_go_from_the_worst_to_the_best(answers: Answers) -> None:
    gains = [example["gain"] for example in examples(answers, 3)]
    assert gains == sorted(gains)
    assert (gains[0], gains[-1]) == (pytest.approx(-0.2), pytest.approx(0.6))
    assert len(examples(answers, 99)) == 4


def test_the_page_is_self_contained_and_escapes_everything(report: dict[str, Any], tmp_path: Path) -> None:
    write_pages(json.loads(json.dumps(report)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 4
    assert {file.name for file in tmp_path.glob("*.png")} == {f"{name}.png" for name in PICTURES}


def test_the_verdict_claims_no_more_than_the_intervals(report: dict[str, Any]) -> None:
    assert "which chance may explain" in verdict(report)[0]
    difference = report["similarity"]["all_texts"]["difference"]
    difference |= {"low": 0.01, "high": 0.2}
    assert "rises" in verdict(report)[2]
    difference |= {"low": -0.2, "high": -0.01}
    assert "falls" in verdict(report)[2]
    difference |= {"low": -0.2, "high": 0.1}
    assert "may not have changed" in verdict(report)[2]
    difference["value"] = None
    assert "no text to compare" in verdict(report)[2]
