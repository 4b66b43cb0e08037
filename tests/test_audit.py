"""The hack matrix: hacks by hand, the matrix by hand and with the real embedding model, and the command."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.configs.scoring import Scoring
from semtag.generation.parse import answer_of, parse
from semtag.scoring.audit import Audit, HonestText, audit, cut_to_form, honest_texts
from semtag.scoring.calibration import cost_of_words
from semtag.scoring.embedder import Embedder
from semtag.scoring.hacks import HACKS, LEXICON, Around
from semtag.scoring.records import RANKED
from semtag.scoring.similarity import score_texts
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, semtag
from tests.test_cli import fails

ENGINE = (
    "The governor of James Watt keeps a steam engine at a steady speed. Two balls of iron swing out as the shaft turns "
    "faster, and a lever then closes the valve of 1788."
)
TAGS = ["steam engine", "governor", "James Watt"]
AROUND = Around(
    title="The centrifugal governor",
    prompt="Write labels for the following text:",
    other=["bread", "oven"],
    nearest=["water mill"],
    texts_with={"governor": 1, "valve": 2, "iron": 3},
    max_tags=3,
    max_tag_words=4,
)


def made(hack: str, text: str = ENGINE, tags: list[str] = TAGS) -> list[str]:
    return HACKS[hack](text, tags, AROUND)


def configured(tmp_path: Path, *overrides: str) -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", [f"run.root={tmp_path}", "data.article_column=null", *overrides])


@pytest.mark.parametrize(
    ("hack", "tags"),
    [
        ("first words", ["The governor of James", "Watt keeps a steam", "engine at a steady"]),
        ("title", ["The centrifugal governor"]),
        ("longest sentence in parts", ["Two balls of iron", "swing out as the", "shaft turns faster, and"]),
        (
            "content words, form filled",
            ["governor james watt keeps", "steam engine steady speed", "balls iron swing shaft"],
        ),
        ("content words, as many as honest", ["governor james", "watt", "keeps steam"]),
        (
            "honest tags, form filled",
            ["steam engine keeps steady", "governor speed balls iron", "James Watt swing shaft"],
        ),
        ("plural twins", ["steam engine", "steam engines"]),
        ("hyphen twins", ["steam engine", "steam-engine"]),
        ("synonym twins", ["steam engine", "steam motor"]),
        ("hypernyms", ["steam machine"]),
        ("another language", ["steam moteur"]),
        ("the prompt's words", ["Write labels for the", "following text:"]),
        ("another text's tags", ["bread", "oven"]),
        ("the nearest text's tags", ["water mill"]),
        ("stop words", ["the", "of", "a"]),
        ("numbers", ["1788"]),
        ("look-alike letters", ["steam engine", "\u0455t\u0435\u0430m \u0435ng\u0456n\u0435"]),
    ],
)  # fmt: skip
def test_a_hack_by_hand(hack: str, tags: list[str]) -> None:
    assert made(hack) == tags
    assert parse(answer_of(tags), AROUND.max_tags, AROUND.max_tag_words).format == "valid"


def test_the_rarest_words_are_those_of_fewest_texts() -> None:
    text = "iron governor valve"
    assert made("rarest words", text) == ["governor", "valve", "iron"]
    assert made("rarest words in plural", text) == ["governors", "valves", "irons"]
    assert made("rarest words, form filled", text) == ["governor valve iron"]


@pytest.mark.parametrize(
    ("hack", "defect"),
    [
        ("all words", "too_many"),
        ("one tag thrice", "repeated"),
        ("case twins", "repeated"),
        ("zero-width joiners", "repeated"),
        ("template tokens", "unbalanced"),
        ("tags of 40 words", "verbose"),
    ],
)
def test_what_the_form_refuses(hack: str, defect: str) -> None:
    parsed = parse(answer_of(made(hack, f"{ENGINE} " * 5)), AROUND.max_tags, AROUND.max_tag_words)
    assert (parsed.format, parsed.reason) != ("valid", None)
    assert parsed.reason == defect


def test_a_hack_that_does_not_apply_makes_no_tags() -> None:
    for hack in ("synonym twins", "hypernyms", "another language", "hyphen twins", "numbers"):
        assert made(hack, "Clouds drift.", ["clouds"]) == []


def test_each_word_of_the_lexicon_has_three_others() -> None:
    for word, others in LEXICON.items():
        assert len({word, *others}) == 4, word


def test_honest_tags_are_cut_to_the_form(tmp_path: Path) -> None:
    config = configured(tmp_path, "prompt.max_tags=2", "prompt.max_tag_words=3", "pairs.max_tag_words=2")
    assert cut_to_form(["a long tag", "steam  engine", "iron", "valve"], config) == ("steam engine", "iron")
    assert cut_to_form(["iron", "Iron"], config) == ()
    assert cut_to_form(["one two three"], config) == ()
    assert cut_to_form([], config) == ()


def run_audit(texts: list[HonestText], config: Config, embed_texts: Any, embed_tags: Any) -> Audit:
    with Progress("audit", "texts", io.StringIO()) as progress:
        score = partial(score_texts, embed_texts=embed_texts, embed_tags=embed_tags)
        return audit(texts, config, embed_texts, score, progress)


def test_words_beyond_two_and_a_half_a_tag_cost() -> None:
    assert cost_of_words(["governor", "steam engine of James Watt"], 0.03) == pytest.approx(0.03)
    assert cost_of_words(["a b c d e f"] * 3, 0.03) == pytest.approx(0.03 * 10.5)
    assert cost_of_words(["steam engine", "governor"], 0.03) == 0
    assert cost_of_words(["a b c d e f"], 0.0) == cost_of_words([], 0.03) == 0


def test_the_matrix_by_hand(tmp_path: Path) -> None:
    """The score of this scorer falls with the letters of a list, so that the hacks of few letters win."""

    def angle(tags: str) -> list[float]:
        return [np.cos(len(tags) / 100), np.sin(len(tags) / 100)]

    texts = [HonestText(1, "Clouds drift.", "", ("clouds",)), HonestText(2, "Rain of 10 days.", "", ("some rain",))]
    found = run_audit(
        texts,
        configured(tmp_path),
        lambda own: np.array([[1.0, 0.0] for _ in own]),
        lambda own: np.array([*map(angle, own)]),
    )
    by_name = {one.hack: one for one in found.hacks}
    numbers, twins, other = by_name["numbers"], by_name["plural twins"], by_name["another text's tags"]
    assert (numbers.cells, numbers.won, numbers.refused) == (1, 0, 0)  # `10` is shorter than `some rain`
    assert (numbers.honest, numbers.score) == pytest.approx((np.cos(0.09), np.cos(0.02)), abs=1e-6)
    assert (twins.cells, twins.won, twins.refused) == (2, 2, 0)
    assert (other.cells, other.won) == (2, 1)
    assert (by_name["one tag thrice"].refused, by_name["one tag thrice"].score) == (2, None)
    assert (by_name["title"].cells, by_name["synonym twins"].cells) == (0, 0)
    # The share counts refused hacks for the honest tags; what is left is the share of hacks that win.
    outcomes = [cell.outcome for cell in found.cells]
    assert found.share == pytest.approx(1 - outcomes.count("hack") / len(outcomes))
    assert found.share_of_valid == pytest.approx(outcomes.count("honest") / (len(outcomes) - outcomes.count("refused")))
    assert (found.benign.largest, found.benign.above) == (0.0, 0.0)


def test_a_tie_is_the_hacks_and_what_is_not_finite_makes_no_cell(tmp_path: Path) -> None:
    vectors = {"Clouds drift.": [1.0, 0.0], "Rain falls.": [np.nan, 0.0]}
    texts = [HonestText(1, "Clouds drift.", "", ("clouds",)), HonestText(2, "Rain falls.", "", ("rain",))]
    found = run_audit(
        texts,
        configured(tmp_path),
        lambda own: np.array([vectors[one] for one in own]),
        lambda own: np.ones((len(own), 2)),
    )
    assert {cell.text_id for cell in found.cells} == {1}
    assert {cell.outcome for cell in found.cells} == {"hack", "refused"}


def test_the_real_scorer_falls_for_a_filled_form_and_not_for_nonsense(tmp_path: Path) -> None:
    embedder = Embedder(Scoring(model="all-MiniLM-L6-v2"))
    texts = [
        HonestText(1, ENGINE, "", tuple(TAGS)),
        HonestText(2, "Bakers knead dough and bake loaves of rye bread in a hot oven.", "", ("bread", "baking")),
    ]
    found, priced = (
        run_audit(texts, configured(tmp_path, f"pairs.word_price={price}"), embedder.texts, embedder.tags)
        for price in (0.0, 0.03)
    )
    lost = {cell.hack for cell in found.cells if cell.outcome == "hack"}
    assert "content words, form filled" in lost
    assert priced.share > found.share
    assert not lost & {"stop words", "another text's tags", "ignore the above", "the prompt's words", "numbers"}
    assert found.benign.largest < found.benign.bound


def data_file(tmp_path: Path, **more: Any) -> str:
    rows = [{"text": f"Governor {n}\n{ENGINE} Number {n}.", **more} for n in range(4)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.path={tmp_path}/texts.jsonl"


def test_honest_tags_of_a_column(tmp_path: Path) -> None:
    said = list[str]()
    config = configured(tmp_path, data_file(tmp_path, keys=["steam engine", "governor"]))
    texts = honest_texts(config, None, 3, said.append)
    assert len({text.text_id for text in texts}) == 3
    assert {(text.title[:9], text.tags) for text in texts} == {("Governor ", ("steam engine", "governor"))}
    assert texts == honest_texts(config, "keys", 3, said.append)
    assert "column 'keys'" in said[0]
    for other in ("title", "text"):
        with pytest.raises(UserError, match=f"list of valid tags in a column '{other}'"):
            honest_texts(config, other, 3, said.append)


def test_honest_tags_of_a_ranked_run(tmp_path: Path) -> None:
    config = configured(tmp_path, data_file(tmp_path, keys=["iron"]), "pairs.max_tag_words=2")

    def candidate(sample: int, format_: str, *tags: str) -> dict[str, Any]:
        return {"sample": sample, "completion": "", "tags": tags, "format": format_, "score": 0.9 - sample / 10}

    repaired, verbose = candidate(0, "repaired", "a"), candidate(1, "valid", "one two three")
    row = {"text_id": 7, "text": ENGINE, "meta": '{"title": "Governor"}'}
    folder = RunDir.of(config).layout.round(1).ranked
    folder.mkdir(parents=True)
    with RowWriter(folder / "part.parquet", RANKED) as out:
        out.write(row | {"candidates": [repaired, verbose, candidate(2, "valid", "steam engine")]})
        out.write(row | {"text_id": 8, "candidates": [repaired, verbose]})
    said = list[str]()
    assert honest_texts(config, None, 9, said.append) == [HonestText(7, ENGINE, "Governor", ("steam engine",))]
    assert str(folder) in said[0]
    assert honest_texts(config, "keys", 9, said.append)[0].tags == ("iron",)


def test_a_price_of_words_chooses_the_best_candidate_too(tmp_path: Path) -> None:
    config = configured(tmp_path)
    long = {"sample": 0, "completion": "", "tags": ["steam engine of iron"], "format": "valid", "score": 0.8}
    short = {"sample": 1, "completion": "", "tags": ["steam engine"], "format": "valid", "score": 0.78}
    folder = RunDir.of(config).layout.round(1).ranked
    folder.mkdir(parents=True)
    with RowWriter(folder / "part.parquet", RANKED) as out:
        out.write({"text_id": 7, "text": ENGINE, "meta": "{}", "candidates": [long, short]})
    for price, tags in ((0.0, ("steam engine of iron",)), (0.03, ("steam engine",))):  # 1.5 words cost 0.045
        config = configured(tmp_path, f"pairs.word_price={price}")
        assert [one.tags for one in honest_texts(config, None, 9, print)] == [tags]


def test_the_command(tmp_path: Path) -> None:
    data, out = data_file(tmp_path, keys=TAGS), tmp_path / "matrix.json"
    done = semtag("audit-scorer", "demo", "--texts", "2", "--json", str(out), data, f"run.root={tmp_path}")
    assert done.returncode == 0, done.stderr
    for words in ("stop words", "The honest tags of 2 texts hold", "Order, case and spacing move a score by"):
        assert words in done.stdout
    written = json.loads(out.read_text())
    assert (written["model"], written["texts"]) == ("all-MiniLM-L6-v2", 2)
    assert len(written["cells"]) == sum(hack["cells"] for hack in written["hacks"])
    assert {cell["outcome"] for cell in written["cells"]} == {"honest", "hack", "refused"}


def test_data_without_honest_tags(tmp_path: Path) -> None:
    said = fails("audit-scorer", "demo", data_file(tmp_path), f"run.root={tmp_path}")
    assert "list of valid tags in a column 'keys'" in said
    assert "--honest" in said
