"""Figures from answers, sentences that claim no more than these, and pages that escape what models write."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from semtag.cli import build_parser
from semtag.evaluation.corpus import Corpus
from semtag.evaluation.estimates import compare, examples, format_change
from semtag.evaluation.evaluate import margins
from semtag.evaluation.page import FOLDER, axis, effect, for_script, place, shown
from semtag.evaluation.report import PICTURES, write_pages
from semtag.evaluation.terminal import REPORT_SCHEMA
from semtag.evaluation.verdict import verdict
from semtag.scoring.records import PAIR
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from tests.report_fixture import ATTACK, ESCAPES, interval, some_corpus, some_report

SCHEMA = json.loads((FOLDER / "report_schema.json").read_text())


@pytest.fixture
def corpus() -> Corpus:
    return some_corpus()


@pytest.fixture
def report() -> dict[str, Any]:
    return json.loads(json.dumps(some_report()))


def run_of(folder: Path, report: dict[str, Any]) -> RunDir:
    run = RunDir(folder)
    folder.mkdir()
    with run.replace_folder(run.layout.evaluation) as written:
        (written / "report.json").write_text(json.dumps(report))
        (written / "answers.parquet").write_bytes(b"kept")
    return run


def test_figures_by_hand(corpus: Corpus) -> None:
    base_valid, tuned_valid = corpus.valid("base"), corpus.valid("tuned")
    assert (base_valid.mean(), tuned_valid.mean()) == (0.5, 0.75)
    form = format_change(base_valid, tuned_valid)
    assert (form["only_reference"], form["only_arm"], form["p"]) == (1, 2, 1.0)
    assert form["difference"]["value"] == pytest.approx(0.25)
    assert form["difference"]["low"] < 0.25 < form["difference"]["high"]
    figures = compare(corpus, 200, 0)
    both, everything = figures["similarity"]["both_valid"], figures["similarity"]["all_texts"]
    assert (both["texts"], both["difference"]["value"]) == (1, pytest.approx(0.1))
    assert everything["texts"] == 4
    assert everything["base"]["value"] == pytest.approx(np.mean([0.4, 0.2, 0, 0]))
    assert everything["tuned"]["value"] == pytest.approx(np.mean([0.5, 0, 0.6, 0.3]))
    assert everything["win_rate"]["value"] == 0.75
    assert both["sd"] == {"base": None, "tuned": None} and everything["cohens_d"]["value"] == pytest.approx(
        0.2 / np.sqrt((np.var([0.4, 0.2, 0, 0], ddof=1) + np.var([0.5, 0, 0.6, 0.3], ddof=1)) / 2)
    )
    assert figures["histogram"] == {"base": [0.4, 0.2], "tuned": [0.5, 0.6, 0.3]}
    assert figures["differences"] == pytest.approx([0.1, -0.2, 0.6, 0.3])


def test_margins_by_hand(tmp_path: Path) -> None:
    for number, values in enumerate(([0.1, None, 0.9], [0.2, None, 0.5])):
        with RowWriter(tmp_path / f"{number}.parquet", PAIR) as out:
            for value in values:
                out.write(dict.fromkeys(PAIR.names) | {"margin": value})
    found = margins(tmp_path, bins=3)
    assert found["counts"] == [2, 1, 1]
    assert found["edges"] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert found["format"] == 2


def test_examples_go_from_the_worst_to_the_best(corpus: Corpus) -> None:
    gains = [example["gain"] for example in examples(corpus, 3)]
    assert gains == sorted(gains)
    assert (gains[0], gains[-1]) == (pytest.approx(-0.2), pytest.approx(0.6))
    assert len(examples(corpus, 99)) == 4


# -- the page -------------------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_escapes_everything(report: dict[str, Any], tmp_path: Path) -> None:
    write_pages(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "https://" not in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
    assert page.count("data:image/png;base64,") == len(PICTURES) == 5
    assert {file.name for file in tmp_path.glob("*.png")} == {f"{name}.png" for name in PICTURES}


def test_the_page_names_the_weights_of_packaged_models(report: dict[str, Any], tmp_path: Path) -> None:
    write_pages(report, tmp_path)
    assert "rank-1: model.weights blake2b:0ba7" in (tmp_path / "report.html").read_text()


def test_only_our_own_style_and_script_may_run(report: dict[str, Any], tmp_path: Path) -> None:
    write_pages(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{hashed}'" in policy
    assert page.index("Content-Security-Policy") < page.index("<style")
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page)  # the policy would forbid these


def test_data_cannot_leave_its_script_element() -> None:
    text = for_script({"text": ESCAPES})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"text": ESCAPES}


def test_tags_of_one_side_alone_are_marked(report: dict[str, Any], tmp_path: Path) -> None:
    write_pages(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<mark class="tag">other<span class="hidden-text"> (only tuned)</span></mark>' in page
    assert '<span class="tag">Same</span>' in page  # the base model's is "same"


def test_a_page_without_uses_people_and_examples(report: dict[str, Any], tmp_path: Path) -> None:
    report["downstream"] = dict.fromkeys(report["downstream"])
    report["examples"] = []
    for arm in report["arms"]:
        arm["agreement"] = None
    write_pages(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    for absent in ('id="people"', 'id="search"', 'id="topics"', 'id="map-data"'):
        assert absent not in page


def test_a_warm_start_can_deliver(report: dict[str, Any], tmp_path: Path) -> None:
    report["curve"] = [{"loss": 2.0}, {"loss": 1.0}]  # it knows of no margins
    jsonschema.validate(report, SCHEMA)
    write_pages(report, tmp_path)
    assert (tmp_path / "training.png").stat().st_size > 0


def test_axes_and_numbers() -> None:
    assert axis([interval(0.5), None, interval(-0.2)]) == (pytest.approx(-0.3), pytest.approx(0.6))
    assert axis([interval(0.0, 0.0)]) == (0, 1)
    assert (place(0, (0, 1)), place(1, (0, 1)), place(0, (-1, 1))) == ("2.0", "98.0", "50.0")
    assert [shown(0.12345, kind) for kind in ("percent", "points", "signed", "p", "figure")] == [
        "12.3%", "+12.3", "+0.123", "0.123", "0.123"
    ]  # fmt: skip
    assert shown(0.0001, "p") == "< 0.001"
    assert shown(None, "percent") == "–"  # noqa: RUF001


def test_the_page_has_a_line_a_round(report: dict[str, Any], tmp_path: Path) -> None:
    write_pages(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    (table,) = re.findall(r'aria-label="Rounds">(.*?)</table>', page, re.DOTALL)
    warm, preference = (" ".join(re.sub("<[^>]*>", " ", row).split()) for row in table.split("<tr>")[2:])
    none = shown(None, "figure")
    assert warm == f"1 likelihood 20 lists 5 {none} 75.0% 0.438 +0.200 [+0.100, +0.300]"
    assert preference == f"2 ipo, beta 1.0 1,234 pairs 7 2468 from sampling, 17 recomputed {none} {none} {none}"


# -- the schema -----------------------------------------------------------------------------------------------


def test_the_report_is_as_its_schema_says(report: dict[str, Any]) -> None:
    assert SCHEMA["properties"]["schema"]["const"] == REPORT_SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(report, SCHEMA)


def test_the_schema_refuses_what_is_not_so(report: dict[str, Any]) -> None:
    def refused(change: Any) -> None:
        other = json.loads(json.dumps(report))
        change(other)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, SCHEMA)

    refused(lambda it: it["gates"][0].pop("passed"))
    refused(lambda it: it.update(more=1))
    refused(lambda it: it.update(rounds=[]))
    refused(lambda it: it["rounds"][0].pop("validation"))
    refused(lambda it: it["arms"][2].update(name="base_greedy"))
    refused(lambda it: it["arms"][0].update(more=1))
    refused(lambda it: it["arms"].pop(1))  # tuned
    refused(lambda it: it["downstream"]["topics"]["map"]["points"][0].pop("tags"))


def test_every_key_is_described() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for name, one in node.get("properties", {}).items():
                assert "description" in one or "contains" in node or list(one) == ["const"], name
            for one in node.values():
                walk(one)
        elif isinstance(node, list):
            for one in node:
                walk(one)

    walk(SCHEMA)


# -- the verdict ----------------------------------------------------------------------------------------------


def test_the_verdict_claims_no_more_than_the_intervals(report: dict[str, Any]) -> None:
    assert "which chance may explain" in verdict(report)[0]
    assert "but one text to compare" in verdict(report)[1]  # its interval has no width, and means nothing
    difference = report["similarity"]["all_texts"]["difference"]
    difference |= {"low": 0.01, "high": 0.2}
    assert "rises" in verdict(report)[2]
    difference |= {"low": -0.2, "high": -0.01}
    assert "falls" in verdict(report)[2]
    difference |= {"low": -0.2, "high": 0.1}
    assert "may not have changed" in verdict(report)[2]
    difference["value"] = None
    assert "no text to compare" in verdict(report)[2]


def test_the_verdict_sets_other_arms_beside_the_tuned_model(report: dict[str, Any]) -> None:
    said = " ".join(verdict(report))
    assert "similarity 0.420 [0.370, 0.470] (base vote), below the tuned model's 0.600 [0.550, 0.650]" in said
    assert "80.0% [75.0%, 85.0%] well formed (base), not clearly apart from the tuned model's" in said
    assert "keybert, which picks phrases by the very model that scores, comes closest" in said
    assert "above the tuned model's" in said
    assert "corrected for 8 arms (Holm): more answers are well formed for tuned and keybert;" in said


def test_an_effect_needs_both_the_interval_and_the_corrected_p() -> None:
    def found(low: float, high: float, p: float) -> str:
        return effect({"difference": {"value": 0, "low": low, "high": high}, "p": p, "p_holm": p})

    assert found(0.1, 0.2, 0.01) == "higher"
    assert found(-0.2, -0.1, 0.01) == "lower"
    assert found(0.1, 0.2, 0.06) == found(-0.1, 0.2, 0.01) == "unclear"


def test_the_verdict_on_people_and_uses(report: dict[str, Any]) -> None:
    (people,) = [said for said in verdict(report) if "keyphrases" in said]
    assert "more than the base model's" in people
    report["arms"][1]["against"]["stemmed_f1"]["p_holm"] = 0.5
    (people,) = [said for said in verdict(report) if "keyphrases" in said]
    assert "not clearly different" in people
    (search,) = [said for said in verdict(report) if "nDCG@10" in said]
    assert "intervals that overlap" in search
    report["downstream"]["search"]["rows"][-1]["ndcg_at_10"] = interval(0.95, 0.01)
    (search,) = [said for said in verdict(report) if "nDCG@10" in said]
    assert "0.950 [0.940, 0.960] with them, a gain" in search
    report["downstream"]["search"] = None
    assert not [said for said in verdict(report) if "nDCG@10" in said]


# -- the command -------------------------------------------------------------------------------------------------


def test_the_command_takes_one_run_or_several() -> None:
    arguments = build_parser().parse_args(["report", "runs/a", "runs/b", "--out", "both.html"])
    assert (arguments.runs, arguments.out) == (["runs/a", "runs/b"], Path("both.html"))
