"""The report: claims from contrasts, sentences that say no more, and a page that escapes what models write."""

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from semtag.cli import build_parser
from semtag.evaluation.arms import BASE, PEOPLE, TUNED
from semtag.evaluation.report import svg
from semtag.evaluation.report.findings import EXTRACTORS, claims, findings
from semtag.evaluation.report.html import render
from semtag.evaluation.report.page import axis, between, counted, for_script, place, shown, words
from semtag.evaluation.report.records import ClassFigures, Judge, Report, Row
from semtag.evaluation.report.terminal import failed_gates, result_table
from semtag.store.run_dir import RunDir
from tests.report_fixture import ATTACK, ESCAPES, contrast, estimate, some_arm, some_judgement, some_report

INTERVAL = re.compile(r"\[[+-]?\d[\d.]*%?, [+-]?\d[\d.]*%?\]")
COUNTED = re.compile(r"[\d.]%?( points)? n [\d,]+ $")


@pytest.fixture(scope="module")
def report() -> Report:
    return some_report()


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def rows_of(page: str, table: str) -> list[str]:
    """The rows of a table as text, its head aside."""
    (inside,) = re.findall(rf'aria-label="{re.escape(table)}"><table>(.*?)</table>', page, re.DOTALL)
    return [text_of(row) for row in re.findall(r"<tr[ >].*?</tr>", inside, re.DOTALL)[1:]]


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<(svg|style|script).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


# -- claims -------------------------------------------------------------------------------------------------------


def test_better_is_claimed_where_better_than_each(report: Report) -> None:
    found = {claim.measure: claim for claim in claims(report, "primary")}
    assert [(name, claim.finding) for name, claim in found.items()] == [
        ("found_by_meaning", "better"),
        ("found_by_words", "unclear"),
        ("similarity", "worse"),
        ("well_formed", "better"),
    ]
    assert {claim.arms for claim in found.values()} == {4}
    assert found["found_by_meaning"].decided_by.p_holm == 0.03  # the largest of 0.01, 0.01, 0.01 and 0.03
    assert [found[name].decided_by.second for name in ("found_by_meaning", "similarity")] == [BASE, BASE]


def test_an_interval_without_0_is_no_claim_where_p_is_large(report: Report, page: str) -> None:
    (claim,) = [one for one in claims(report, "primary") if one.measure == "found_by_words"]
    assert claim.decided_by.difference.low == pytest.approx(0.02) and claim.decided_by.p_holm == 0.06
    assert "better than each is not shown by found by words" in findings(report)[0]
    (row,) = [one for one in rows_of(page, "Is it better than not training?") if one.startswith("found by words")]
    assert row.endswith("○ not shown better +0.070 n 246 [+0.020, +0.120] base of 4 0.060")
    (said,) = [line for line in result_table(RunDir("run"), report).splitlines() if line.startswith("found by words")]
    assert said.split("  ")[0] == "found by words" and "not shown" in said and "better" not in said


def test_of_equal_p_the_smallest_difference_decides() -> None:
    both = [contrast("primary", second, "similarity", value) for second, value in (("base", 0.3), ("base_plain", 0.1))]
    (claim,) = claims(some_report(contrasts=both), "primary")
    assert (claim.decided_by.second, claim.finding) == ("base_plain", "better")


def test_the_sentences(report: Report) -> None:
    assert findings(report) == [
        "The tagger against each untrained arm, 4 in all: better than each by found by meaning, well formed; "
        "worse than some by similarity; better than each is not shown by found by words (n 246).",
        "The tagger against each extractor, 1 in all: worse than some by found by words (n 246).",
        f"Of 3 gates against gaming the score: 1 passed, 1 failed (found {ATTACK}), 1 undecided (stuffed answers).",
        f"Meaning is judged by judge {ATTACK}, which training never used.",
    ]
    other = some_report(contrasts=[], judge=Judge(model="m", trained_for=True))
    assert findings(other)[0] == "No untrained arm was compared."
    assert "the very model that the tagger was trained to please" in findings(other)[3]
    both = [contrast("primary", "base", "f1_at_m", 0.3, difference=estimate(0.3, n=90)), report.contrasts[0]]
    assert findings(some_report(contrasts=both))[0].endswith(
        "better than each by found by meaning, F1@M (n 90 to 246)."
    )


def test_people_are_no_extractor(report: Report) -> None:
    (extractor,) = claims(report, "equal words", EXTRACTORS)
    (people,) = claims(report, "equal words", [PEOPLE])
    assert (extractor.decided_by.second, people.decided_by.second) == ("yake", "people")


def test_an_undecided_gate_neither_passes_nor_fails(report: Report, page: str) -> None:
    assert counted(report.gates) == f"1 passed, 1 failed (found {ATTACK}), 1 undecided (stuffed answers)"
    assert failed_gates(report) == [f"found {ATTACK}"]
    outcomes = [re.findall("passed|failed|undecided", row) for row in rows_of(page, "Gates")]
    assert outcomes == [["passed"], ["failed"], ["undecided"]]


def test_the_result_on_a_terminal(report: Report) -> None:
    lines = [" ".join(line.split()) for line in result_table(RunDir("runs/demo"), report).splitlines()]
    assert "similarity worse base -0.200 [-0.250, -0.150] 246 0.020" in lines
    assert "well formed better than each base plain +25.0 [+20.0, +30.0] points 246 0.010" in lines
    assert "tuned 246 60.0% [55.0%, 65.0%] 0.600 [0.550, 0.650] 0.600 [0.550, 0.650] 0.600 [0.550, 0.650]" in lines
    assert f"gates: {counted(report.gates)}" in lines
    assert lines[-1] == "246 held-out texts; report: runs/demo/evaluation/report.html"


# -- the page -----------------------------------------------------------------------------------------------------


def test_every_interval_stands_beside_its_number_of_texts(page: str) -> None:
    text = text_of(page)
    found = [match.start() for match in INTERVAL.finditer(text)]
    assert len(found) > 100
    assert [text[start - 40 : start + 20] for start in found if not COUNTED.search(text[:start][-40:])] == []


def test_all_that_is_estimated_is_on_the_page(report: Report, page: str) -> None:
    assert f"0.300 n 120 {between(estimate(0.3)).split(maxsplit=1)[1]}" in rows_of(page, "Agreement with people")[0]
    words_an_answer = "words an answer 2.50 n 246 [2.45, 2.55] 2.50 n 246 [2.45, 2.55]"
    assert rows_of(page, "Answers of base and tuned")[1] == words_an_answer
    for table in ("Form, and who finds the text", "What the tags are like"):
        assert len(rows_of(page, table)) == len(report.arms)
    assert "8 answers a text" in page and "8 answers a text, of which the scoring model picks the best" in page
    assert "People gave no keyphrases to 1 of 246 texts, which are left out of people's rows." in text_of(page)
    assert rows_of(page, "Most frequent tags of tuned") == [f"tuned {ATTACK} 9", "ships 3"]
    (use,) = rows_of(page, "Contrasts of search")
    assert use.startswith(f"text and tags of tuned text alone nDCG@10 search, bm25 {ATTACK} ○ not clear +0.012 n 246")
    assert len(rows_of(page, "All contrasts")) == len(report.contrasts)
    warm, preference = rows_of(page, "Rounds")
    assert warm == "1 likelihood 20 lists 5 – 75.0% 0.438 +0.200 n 9 [+0.150, +0.250]"  # noqa: RUF001
    assert preference.endswith("5 17 recomputed – – –")  # noqa: RUF001
    assert f"rank-1: model.weights blake2b:0ba7 {ATTACK}" in text_of(page)


def test_more_words_are_called_more_and_not_better() -> None:
    longer = [contrast("primary", "base", "words", 1.5)]
    (row,) = rows_of(render(some_report(contrasts=longer)), "All contrasts")
    assert row == "primary tuned base words ▼ more +1.50 n 246 [+1.45, +1.55] 0.005 0.010"


def test_the_page_is_self_contained_and_escapes_everything(page: str) -> None:
    assert ATTACK not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 40
    assert not re.search("https?://(?!www.w3.org/2000/svg)|src=(?!x onerror)", page.split("<script type")[0])


def test_only_our_own_style_and_script_may_run(page: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
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


def test_tags_of_one_side_alone_are_marked(page: str) -> None:
    assert '<mark class="tag">other<span class="hidden-text"> (only tuned)</span></mark>' in page
    assert '<span class="tag">Same</span>' in page  # the base model's is "same"


def test_a_page_without_uses_people_and_examples() -> None:
    bare: dict[str, Any] = {"uses": [], "classification": None, "topics": None, "examples": [], "contrasts": []}
    bare |= {
        "arms": [some_arm(name, 0.5, agreed=False) for name in (BASE, TUNED)],
        "gates": [],
        "curve": [{"loss": 2.0}],
    }
    page = render(some_report(**bare))
    for absent in ('id="people"', 'id="search"', 'id="topics"', 'id="map-data"', 'id="training"', "Nats per token"):
        assert absent not in page


def test_the_page_stays_small_with_many_texts_and_classes() -> None:
    row = Row(text="a longer word " * 14, base=["steam engine", "James Watt", "history"], tuned=["steam engine"] * 3)
    many = ClassFigures(texts=5000, classes=[f"class {i}" for i in range(200)], most_frequent=0.1, confusions=[])
    topics = some_report().topics
    assert topics and topics.map
    drawn = topics.map.model_copy(
        update={"points": [topics.map.points[1].model_copy(update={"text": row.text})] * 2000}
    )
    changes = {"rows": [row] * 5000, "classification": many, "topics": topics.model_copy(update={"map": drawn})}
    page = render(some_report(**changes, similarities={arm: [0.5] * 5000 for arm in (BASE, TUNED)}))
    assert len(page.encode()) < 5_000_000
    assert "class 19 and 180 more." in page and "class 20" not in page


# -- numbers and figures ------------------------------------------------------------------------------------------


def test_axes_and_numbers() -> None:
    assert axis([0.5, None, -0.2]) == (-0.2, 0.5)
    assert axis([0.0]) == (0, 1)
    assert (place(0, (0, 1)), place(1, (0, 1)), place(0, (-1, 1))) == ("2.0", "98.0", "50.0")
    kinds = ("percent", "points", "signed", "more", "p", "figure")
    assert [shown(0.12345, kind) for kind in kinds] == ["12.3%", "+12.3", "+0.123", "+0.12", "0.123", "0.123"]
    assert (shown(0.0001, "p"), shown(None, "percent")) == ("< 0.001", "–")  # noqa: RUF001
    assert between(estimate(0.3), "points") == "+30.0 [+25.0, +35.0] points"
    assert between(estimate(0.3).model_copy(update={"low": None, "high": None})) == "0.300"
    assert [words(name) for name in ("present_f1_at_m", "ndcg_at_10", "base_plain")] == [
        "present F1@M",
        "nDCG@10",
        "base plain",
    ]


def test_figures_by_hand() -> None:
    drawn = svg.histogram([0.0, 0.5, 1.0], {"tuned": [1, 2]}, "across", "up", f"of {ATTACK}")
    # The plot is 412 wide from 58, and 206 high above 216; the higher bar has 2.
    assert 'class="area tuned" d="M58 216V113.0H264.0V10.0H470.0V216"' in drawn
    assert ATTACK not in drawn
    line = svg.curves({"tuned": [1.0, None, 3.0, 2.0]}, "loss", "label")
    assert 'd="M58.0 216.0M332.7 10.0L470.0 113.0"' in line  # a gap where nothing was logged
    assert 'd=""' in svg.curves({"tuned": []}, "loss", "label")


# -- the records --------------------------------------------------------------------------------------------------


def test_every_key_of_the_report_is_described() -> None:
    schema = Report.model_json_schema()
    assert schema["properties"]["schema_version"]["const"] == 9
    assert [
        name for name, one in schema["properties"].items() if "description" not in one and "$ref" not in str(one)
    ] == []
    assert [name for name, one in schema["$defs"].items() if "description" not in one] == []


def test_the_command_takes_one_run_or_several() -> None:
    arguments = build_parser().parse_args(["report", "runs/a", "runs/b", "--out", "both.html"])
    assert (arguments.runs, arguments.out) == (["runs/a", "runs/b"], Path("both.html"))


def test_what_judges_prefer_is_on_the_page(report: Report) -> None:
    page = render(report, [some_judgement()])
    ann, ben = rows_of(page, "Judges of base and tuned, 4-0123456789abcdef")
    assert ann == f"Ann {ATTACK} person 2 1 1 62.5% n 4 1.000"
    assert ben.startswith("Ben person 1 1 2 50.0% n 4") and ben.endswith("1 of 2")
    shown = text_of(page)
    assert "No text was decided" not in shown and "Chance may explain what difference there is" in shown
    assert f"Ann {ATTACK} and Ben judge 3 of 4 texts the same; weighted kappa" in shown
    assert ATTACK not in page
    assert "What do judges prefer?" not in render(report)
