"""`semtag judge`: what a judge sees says nothing of the arms, and what judges choose is counted as by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.small_models import build_tokenizer, save_random_llama
from benchmarks.trainers import small_tokenizer
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.evaluation.corpus import ANSWERED
from semtag.evaluation.judge import Selection, render, select
from semtag.evaluation.judge_model import count_up, letters, outcome_of, questions
from semtag.evaluation.judgement import (
    Results,
    agreement,
    analyse,
    check_belongs,
    judgement_table,
    majority,
    names_of,
    read_results,
    tally,
)
from semtag.evaluation.statistics import sign_test
from semtag.generation.texts import text_id
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, TEXTS, semtag
from tests.test_cli import fails

ATTACK = "<script>alert(1)</script>"


def judged_run(root: Path, texts: list[str], *overrides: str) -> Path:
    """A run as evaluation leaves it, with two arms and a third like the first; one text in ten is malformed, one equal.

    The first arm's tags begin with `plain`, the second's with `fine`.
    """
    config = load_config(ROOT / "configs" / "demo.yaml", [f"run.root={root}", *overrides])
    run = RunDir.of(config)
    run.create()
    run.start(config)
    with run.replace_folder(run.layout.evaluation) as folder, RowWriter(folder / "answers.parquet", ANSWERED) as out:
        for place, text in enumerate(texts):
            base, tuned = [f"plain {place}", text.split()[-1]], [f"fine {place}", text.split()[1]]
            if place % 10 == 3:
                tuned = [base[1].upper(), base[0]]
            answers = [("base", base, "valid"), ("tuned", tuned, "invalid" if place % 10 == 7 else "valid")]
            answers.append(("base_plain", base, "valid"))
            rows = [{"arm": arm, "tags": tags, "format": form, "score": 0.875} for arm, tags, form in answers]
            out.write({"text_id": text_id(text), "text": text, "meta": "{}", "answers": rows})
    return Path(str(run.path))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return RunDir(str(judged_run(tmp_path_factory.mktemp("judged"), TEXTS)))


@pytest.fixture(scope="module")
def judge_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with random weights whose tokenizer knows A and B."""
    folder, texts = tmp_path_factory.mktemp("judge"), [f"Answer A: {text} Answer B: A or B" for text in TEXTS]
    return save_random_llama(folder, build_tokenizer(texts, vocabulary=400))


@pytest.fixture(scope="module")
def selection(run: RunDir) -> Selection:
    return select(run, "base", "tuned", 20)


def saved(selection: Selection, judge: str, arms: str) -> Results:
    """Results of a judge who prefers, item for item, `1` the first arm, `2` the second, `0` none."""
    choices = []
    for item, arm in zip(selection.items, arms, strict=False):
        side = "tie" if arm == "0" else "left" if (arm == "1") == item.first_is_left else "right"
        choices.append({"item": item.id, "choice": side, "seconds": 1.5})
    return Results.model_validate({"page": selection.page, "judge": judge, "choices": choices})


def test_the_same_texts_come_in_the_same_order_and_each_arm_is_as_often_on_the_left(run: RunDir) -> None:
    first, again, more = (select(run, "base", "tuned", count) for count in (20, 20, 40))
    assert (first, first.page) == (again, again.page)
    assert [item.id for item in more.items[:20]] == [item.id for item in first.items]
    assert sum(item.first_is_left for item in first.items) == 10
    assert sum(item.first_is_left for item in more.items) == 20
    assert [item.first_is_left for item in first.items] != sorted(item.first_is_left for item in first.items)
    assert [TEXTS.index(item.text) for item in first.items] != sorted(TEXTS.index(item.text) for item in first.items)
    assert first.page.startswith("20-")
    assert first.page != more.page


def test_what_nobody_can_judge_is_left_out_and_counted(run: RunDir) -> None:
    everything = select(run, "base", "tuned", 999)
    assert (everything.texts, everything.malformed, everything.equal) == (64, 6, 7)
    assert len(everything.items) == 64 - 6 - 7
    with pytest.raises(UserError, match=r"nothing to judge: of 64 texts, 0 have a malformed .* 64 the same"):
        select(run, "base", "base_plain", 5)
    with pytest.raises(UserError, match=r"no arm 'tunde'(.|\n)*base, tuned, base_plain"):
        select(run, "base", "tunde", 5)
    with pytest.raises(UserError, match="against itself"):
        select(run, "base", "base", 5)


def test_another_seed_shuffles_anew(selection: Selection, tmp_path: Path) -> None:
    other = select(RunDir(str(judged_run(tmp_path, TEXTS, "run.seed=5"))), "base", "tuned", 20)
    assert {item.text for item in other.items} != {item.text for item in selection.items}
    swapped = select(RunDir(str(judged_run(tmp_path, TEXTS, "run.seed=5"))), "tuned", "base", 20)
    assert swapped.page != other.page


def test_the_page_tells_neither_arm_nor_score(selection: Selection) -> None:
    page = render(selection)
    assert not [word for word in ("base_plain", "tuned", "0.875", '"base', "first_is_left") if word in page]
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data.keys() == {"page", "items"}
    assert all(item.keys() == {"item", "text", "left", "right"} for item in data["items"])
    assert str(text_id(data["items"][0]["text"])) not in page


def test_the_sign_test_by_hand() -> None:
    assert sign_test(9, 1) == 0.021484375  # 2 (1 + 10) / 2^10
    assert sign_test(5, 5) == 1.0
    assert sign_test(0, 0) == 1.0
    assert sign_test(6, 0) == 0.03125
    found = tally(["second"] * 9 + ["first"] + ["tie"] * 40)
    assert (found["judged"], found["wins"], found["losses"], found["ties"]) == (50, 9, 1, 40)
    assert found["sign_p"] == 0.021484375
    assert found["win_rate"]["value"] == 0.9
    # Wilson: (0.9 + z^2/20 -+ z sqrt(0.09/10 + z^2/400)) / (1 + z^2/10), z = 1.959964
    assert found["win_rate"]["low"] == pytest.approx(0.59585, abs=1e-5)
    assert found["win_rate"]["high"] == pytest.approx(0.98212, abs=1e-5)
    assert tally([])["win_rate"]["value"] is None


def test_kappa_by_hand() -> None:
    one = dict(zip("abcdefghij", ["first"] * 4 + ["second"] * 4 + ["tie"] * 2, strict=True))
    other = dict(zip("abcdefghij", ["first"] * 3 + ["second"] * 5 + ["tie"] * 2, strict=True))
    found = agreement(one, other)
    assert (found["items"], found["same"]) == (10, 9)
    chance = 0.4 * 0.3 + 0.4 * 0.5 + 0.2 * 0.2
    assert found["kappa"] == pytest.approx((0.9 - chance) / (1 - chance))
    assert agreement({"a": "tie"}, {"a": "tie"}) == {"items": 1, "same": 1, "kappa": None}
    assert agreement({"a": "tie"}, {"b": "tie"}) == {"items": 0, "same": 0, "kappa": None}
    assert majority([{"a": "first", "b": "second", "c": "tie"}, {"a": "first", "b": "first", "c": "second"}]) == {
        "a": "first",
        "b": "tie",
        "c": "second",
    }


def test_choices_are_unblinded_and_counted(selection: Selection) -> None:
    results = [saved(selection, "Ann", "2" * 12 + "1" * 4 + "0" * 4), saved(selection, "Ben", "2" * 10)]
    found = analyse(selection, results, ["Ann", "Ben"])
    ann, ben = found["judges"]
    assert (ann["wins"], ann["losses"], ann["ties"], ann["median_seconds"]) == (12, 4, 4, 1.5)
    assert (ben["judged"], ben["wins"], ben["sign_p"]) == (10, 10, pytest.approx(2 / 1024))
    lefts = sum(item.first_is_left == (place >= 12) for place, item in enumerate(selection.items[:16]))
    assert ann["left"]["share"]["value"] == lefts / 16
    assert found["majority"]["wins"] == 12
    assert found["agreement"] == [{"judges": ["Ann", "Ben"], "items": 10, "same": 10, "kappa": None}]
    stubborn = [{"item": item.id, "choice": "left"} for item in selection.items]
    [found] = analyse(selection, [Results(page=selection.page, choices=stubborn)], ["x"])["judges"]  # type: ignore[arg-type]
    assert (found["wins"], found["losses"]) == (10, 10)
    assert found["left"] == {"share": pytest.approx({"value": 1.0, "low": 0.83887, "high": 1.0}, abs=1e-5),
                             "p": pytest.approx(2**-19)}  # fmt: skip


def test_judges_are_told_apart(selection: Selection) -> None:
    results = [saved(selection, name, "") for name in ("Ann", " Ann\n", "Ben", "")]
    files = [Path(f"folder/{name}.json") for name in "abcd"]
    assert names_of(results, files) == ["Ann (a.json)", "Ann (b.json)", "Ben", "d.json"]
    found = analyse(selection, results[2:], ["Ben", "d.json"])
    assert "No text was decided for base or tuned." in judgement_table(found)


def test_foreign_results_are_refused(selection: Selection, tmp_path: Path) -> None:
    file, good = tmp_path / "results.json", saved(selection, "Ann", "2" * 20)
    check_belongs(good, file, selection)
    with pytest.raises(UserError, match="is of another page, 20-0123456789abcdef"):
        check_belongs(good.model_copy(update={"page": "20-0123456789abcdef"}), file, selection)
    twice = good.model_copy(update={"choices": [*good.choices, good.choices[0]]})
    foreign = good.model_copy(update={"choices": [good.choices[0].model_copy(update={"item": "0" * 16})]})
    for wrong in (twice, foreign):
        with pytest.raises(UserError, match="no text of the page, or two on one"):
            check_belongs(wrong, file, selection)
    for content in (b"{", b"[]", b"\xff", b'{"page": "x", "choices": []}', good.model_dump_json().encode()[:-9]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"holds no results: .*\n.*Save button"):
            read_results(file)
    with pytest.raises(UserError, match="No such file"):
        read_results(tmp_path / "missing.json")


def test_the_command_makes_a_page_and_analyses_its_results(run: RunDir, tmp_path: Path) -> None:
    made = semtag("judge", str(run.path), "--count", "20")
    assert made.returncode == 0, made.stderr
    assert "20 of 64 texts, chosen by hash. Left out: 6 where an answer is malformed, 7 where both" in made.stdout
    assert (run.path / "judgement" / "judge.html").read_text().startswith("<!doctype html>")
    assert "judge.html is there already" in fails("judge", str(run.path))
    selection = select(run, "base", "tuned", 20)
    files = [tmp_path / "ann.json", tmp_path / "ben.json"]
    for file, arms in zip(files, ("2" * 17 + "1" * 3, "2" * 9 + "1"), strict=True):
        file.write_text(saved(selection, file.stem.title() + "\x1b[31m", arms).model_dump_json())
    done = semtag("judge", str(run.path), "--results", *map(str, files))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "tuned is judged better than base more often than chance would have it" in done.stdout
    assert "judge 9 of 10 texts the same" in done.stdout
    assert "judged 10 of 20 texts." in done.stdout
    written = json.loads((tmp_path / "judgement.json").read_text())
    assert (written["judges"][1]["wins"], written["judges"][1]["sign_p"]) == (9, 0.021484375)
    other = ["--first", "tuned", "--second", "base_plain"]
    assert "is of another page" in fails("judge", str(run.path), *other, "--results", str(files[0]))


def test_wrong_commands_get_the_cure(run: RunDir, tmp_path: Path) -> None:
    assert "is not a run directory" in fails("judge", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert "Overrides go with --model" in fails("judge", str(run.path), "sampling.dtype=float32")
    assert "No tokenizer at" in fails("judge", str(run.path), "--model", str(tmp_path / "nothing"))
    assert "beside the first" in fails("judge", str(run.path), "--out", "x.json", "--results", "y.json")
    assert "No such file" in fails("judge", str(run.path), "--results", str(tmp_path / "nothing.json"))


def test_a_models_answers_by_hand(selection: Selection, judge_path: str) -> None:
    from transformers import AutoTokenizer

    assert [outcome_of(*pair) for pair in ("AA", "AB", "BA", "BB")] == ["tie", "first", "second", "tie"]
    asked = questions(selection.items[:1])
    one, other = (f"[{tags[0]}][{tags[1]}]" for tags in (selection.items[0].first, selection.items[0].second))
    assert f"Answer A: {one}\nAnswer B: {other}\n" in asked[0]
    assert f"Answer A: {other}\nAnswer B: {one}\n" in asked[1]
    given = "AB" * 2 + "BA" * 6 + "AA" * 7 + "BB" * 1  # 2 for the first arm, 6 for the second, 8 by position
    found = count_up(selection, dict(enumerate(given)))
    assert (found["judged"], found["wins"], found["losses"], found["ties"]) == (16, 6, 2, 8)
    assert found["sign_p"] == pytest.approx(2 * (1 + 8 + 28) / 256)
    assert found["position"]["share"] == (2 + 6 + 14) / 32
    assert found["position"]["p"] == pytest.approx(2 * (1 + 8) / 256)  # 7 times twice A against once twice B
    judging = AutoTokenizer.from_pretrained(judge_path)
    assert {judging.decode([id_]) for id_ in letters(judging)} == {"A", "B", " A", " B"}
    with pytest.raises(UserError, match="no token for A and B"):
        letters(small_tokenizer())


@pytest.mark.cluster
def test_a_real_model_is_asked_in_both_orders(judge_path: str, tmp_path: Path) -> None:
    run = judged_run(tmp_path, TEXTS, "model.base=gone", "model.chat_template=gone.jinja")
    settings = ["sampling.dtype=float32", "sampling.batch_size=4"]
    done = semtag("judge", str(run), "--model", judge_path, "--count", "9", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((run / "judgement" / "model.json").read_text())
    selection = select(RunDir(str(run)), "base", "tuned", 9)
    assert [answer["item"] for answer in found["answers"]] == [item.id for item in selection.items]
    said = [answer[order] for answer in found["answers"] for order in ("first_as_a", "second_as_a")]
    assert len(said) == 18
    assert set(said) <= {"A", "B"}
    assert found["position"]["share"] == said.count("A") / 18
    assert found["wins"] + found["losses"] + found["ties"] == found["judged"] == 9
    assert found["ties"] == found["position"]["first_twice"] + found["position"]["second_twice"]
    assert found["not_asked"] == {}
    assert "position decided" in done.stdout
    assert not list(run.glob(".*partial"))
    assert "model.json is there already" in fails("judge", str(run), "--model", judge_path)
