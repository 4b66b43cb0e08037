"""`semtag judge`: what a judge sees says nothing of the arms, and what judges choose is counted as by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import cohen_kappa_score

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.evaluation.answers import ANSWERED
from semtag.evaluation.judging.model import count_up
from semtag.evaluation.judging.outcomes import (
    Judgement,
    Verdict,
    agreement,
    alpha_of,
    majority_of,
    standing,
    verdict_of,
    weighted_kappa,
)
from semtag.evaluation.judging.page import decided_needed, render
from semtag.evaluation.judging.people import Results, analyse, check_belongs, read_file
from semtag.evaluation.judging.selection import Outcome, Selection, select
from semtag.generation.texts import text_id
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, TEXTS, semtag
from tests.test_cli import fails

ATTACK = "<script>alert(1)</script>"
ARM: dict[str, Outcome] = {"1": "first", "2": "second", "0": "tie"}


def judged_run(root: Path, texts: list[str], *overrides: str) -> Path:
    """A run as evaluation leaves it, of two arms and a third like the first; of ten texts one lacks tags, one is equal.

    The first arm's tags begin with `plain`, the second's with `fine`.
    """
    config = load_config(ROOT / "configs" / "demo.yaml", [f"run.root={root}", *overrides])
    run = RunDir.of(config)
    run.create()
    run.start(config)
    with run.replace_folder(run.layout.evaluation) as folder, RowWriter(folder / "answers.parquet", ANSWERED) as out:
        for place, text in enumerate(texts):
            base, tuned = [f"plain {place}", text.split()[-1]], [f"fine {place}", text.split()[1]]
            tuned = {3: [base[1].upper(), base[0]], 7: []}.get(place % 10, tuned)
            arms = {"base": base, "tuned": tuned, "base_plain": base}
            rows = [{"arm": arm, "tags": tags, "format": "repaired", "score": 0.875} for arm, tags in arms.items()]
            out.write({"text_id": text_id(text), "text": text, "meta": "{}", "answers": rows})
    return Path(str(run.path))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return RunDir(str(judged_run(tmp_path_factory.mktemp("judged"), TEXTS)))


@pytest.fixture(scope="module")
def selection(run: RunDir) -> Selection:
    return select(run, "base", "tuned", 20)


def saved(selection: Selection, judge: str, arms: str, hour: int = 1, left: bool = False) -> Results:
    """What a judge saved who prefers, item for item, `1` the first arm, `2` the second, `0` none; or the left."""
    choices = []
    for item, arm in zip([*selection.items, *selection.repeated], arms, strict=False):
        side = "left" if left or (arm == "1") == item.first_is_left else "right"
        choices.append({"item": item.id, "choice": "tie" if arm == "0" else side})
    when = f"2026-01-01T{hour:02}:00:00.000Z"
    return Results.model_validate({"page": selection.page, "judge": judge, "saved": when, "choices": choices})


def of(arms: str, judge: str = "x") -> Verdict:
    """A verdict on items 0, 1, ...: `1` the first arm, `2` the second, `0` none, `-` not judged."""
    return verdict_of(judge, "person", {str(place): ARM[arm] for place, arm in enumerate(arms) if arm != "-"})


# -- what is judged -----------------------------------------------------------------------------------------------


def test_the_same_texts_come_in_the_same_order_and_each_arm_is_as_often_on_the_left(run: RunDir) -> None:
    first, again, more = (select(run, "base", "tuned", count) for count in (20, 20, 40))
    assert (first, first.page) == (again, again.page)
    assert [item.id for item in more.items[:20]] == [item.id for item in first.items]
    assert [sum(item.first_is_left for item in one.items) for one in (first, more)] == [10, 20]
    assert [item.first_is_left for item in first.items] != sorted(item.first_is_left for item in first.items)
    assert [TEXTS.index(item.text) for item in first.items] != sorted(TEXTS.index(item.text) for item in first.items)
    assert first.page.startswith("20-")


def test_a_tenth_comes_twice_with_swapped_sides_and_far_apart(run: RunDir) -> None:
    assert [len(select(run, "base", "tuned", count).repeated) for count in (1, 19, 20, 29, 40)] == [0, 0, 2, 2, 4]
    selection = select(run, "base", "tuned", 40)
    first, again = selection.shown[:4], selection.shown[40:]
    assert [(text, left, right) for _, text, left, right in first] == [(text, r, left) for _, text, left, r in again]
    assert len({item for item, *_ in selection.shown}) == 44


def test_what_nobody_can_judge_is_left_out_and_counted(run: RunDir) -> None:
    everything = select(run, "base", "tuned", 999)
    assert (everything.texts, everything.untagged, everything.equal) == (64, 6, 7)
    assert len(everything.items) == 64 - 6 - 7
    with pytest.raises(UserError, match=r"nothing to judge: of 64 texts, 0 have no tags of .* 64 the same"):
        select(run, "base", "base_plain", 5)
    with pytest.raises(UserError, match=r"no arm 'tunde'(.|\n)*base, tuned, base_plain"):
        select(run, "base", "tunde", 5)
    with pytest.raises(UserError, match="against itself"):
        select(run, "base", "base", 5)


def test_another_seed_or_order_of_arms_is_another_page(selection: Selection, tmp_path: Path) -> None:
    run = RunDir(str(judged_run(tmp_path, TEXTS, "run.seed=5")))
    other, swapped = select(run, "base", "tuned", 20), select(run, "tuned", "base", 20)
    assert {item.text for item in other.items} != {item.text for item in selection.items}
    assert swapped.page != other.page


def test_the_page_tells_neither_arm_nor_score(selection: Selection) -> None:
    page = render(selection)
    assert not [word for word in ("base_plain", "tuned", "0.875", '"base', "first_is_left") if word in page]
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data == {"page": selection.page, "items": [list(one) for one in selection.shown]}
    assert str(text_id(selection.items[0].text)) not in page


def test_the_power_of_the_sign_test_by_scipys_own_p() -> None:
    def power(texts: int) -> float:
        significant = [wins for wins in range(texts + 1) if binomtest(wins, texts, 0.5).pvalue <= 0.05]
        return float(binom.pmf(significant, texts, 0.65).sum())

    needed = decided_needed(0.65, 0.8)
    assert power(needed - 1) < 0.8 < power(needed)
    assert decided_needed(0.9, 0.8) < needed < decided_needed(0.6, 0.8)


# -- counts -------------------------------------------------------------------------------------------------------


def test_ties_count_one_half_and_the_test_leaves_them_out() -> None:
    found = of("2" * 9 + "1" + "0" * 40)
    assert (found.wins, found.losses, found.ties, found.p) == (9, 1, 40, 0.021484375)  # 2 (1 + 10) / 2^10
    assert found.win_rate.value == (9 + 40 / 2) / 50
    # The values have the variance (9 * 0.42^2 + 40 * 0.08^2 + 0.58^2) / 49 = 0.04449, their mean 50 times less: that of
    # 0.58 * 0.42 / 0.00088980 = 273.8 answers of yes or no. Wilson's interval by Student's 2.0096: 0.57884 -+ 0.05952.
    ends = (found.win_rate.low, found.win_rate.high)
    assert ends == (pytest.approx(0.51932, abs=1e-5), pytest.approx(0.63836, abs=1e-5))
    assert of("2" * 19).win_rate.low is None
    assert (of("").win_rate.value, of("").p) == (None, 1.0)


def test_kappa_is_scikit_learns_and_of_swapped_ends_minus_one() -> None:
    rng = np.random.default_rng(0)
    one_N, other_N = rng.integers(0, 3, (2, 40)) / 2
    expected = cohen_kappa_score(2 * one_N, 2 * other_N, labels=[0, 1, 2], weights="quadratic")
    assert weighted_kappa(one_N, other_N) == pytest.approx(expected)
    assert agreement(of("12"), of("21")).kappa.value == -1
    found = agreement(of("1122--"), of("112012"))
    # Squared gaps 0, 0, 0, 1/4: mean 1/16. By chance: variances 1/4 and 0.1719, means 1/8 apart.
    assert (found.items, found.same) == (4, 3)
    assert found.kappa.value == pytest.approx(1 - (1 / 16) / (1 / 4 + 11 / 64 + 1 / 64))
    assert (agreement(of("0"), of("0")).kappa.value, agreement(of("0"), of("-0")).items) == (None, 0)


def test_agreement_has_an_interval_from_20_items_on() -> None:
    one, other = "11220" * 8, "11220" * 6 + "22112" * 2
    few, many = agreement(of(one[:19]), of(other[:19])).kappa, agreement(of(one), of(other)).kappa
    assert few.low is None
    assert many.low is not None and many.value is not None and many.high is not None
    assert 0 < many.low < many.value < many.high < 1
    alpha = alpha_of([of(one), of(other), of("-" * 20 + one[:20])])
    assert alpha.low is not None and alpha.value is not None and alpha.high is not None
    assert alpha.low < alpha.value < alpha.high and alpha.n == 40


def test_alpha_by_hand() -> None:
    # Two judges, values 1, 1, 2 and 1, 2, 2: n = 6 ratings, 3 of each. Observed 2 of 6 differ, by chance 18 of 30.
    assert alpha_of([of("112"), of("122")]).value == pytest.approx(1 - (2 / 6) / (18 / 30))
    assert alpha_of([of("111"), of("111")]).value is None
    assert alpha_of([of("1--"), of("-12")]).n == 0


def test_most_people_decide_and_as_many_make_a_tie() -> None:
    found = majority_of([of("1020-"), of("1112-"), of("10-12")])
    assert found.outcomes == {"0": "first", "1": "first", "2": "tie", "3": "tie", "4": "second"}


def test_choices_are_unblinded_and_counted(selection: Selection) -> None:
    ann = saved(selection, " Ann\n", "2" * 12 + "1" * 4 + "0" * 4 + "21")
    found = analyse(selection, [ann, saved(selection, "Ben", "2" * 10)])
    one, other, most = found.verdicts
    assert (one.judge, one.wins, one.losses, one.ties, one.repeated, one.repeated_same) == ("Ann", 12, 4, 4, 2, 1)
    assert (other.wins, len(other.outcomes), other.p, other.repeated) == (10, 10, pytest.approx(2 / 1024), 0)
    assert (most.judge, most.wins) == ("most people", 12)
    assert [(two.one, two.other, two.items, two.same) for two in found.agreements] == [("Ann", "Ben", 10, 10)]
    assert found.notes == [selection.story, "Ben judged 10 of 20 texts."]
    [stubborn] = analyse(selection, [saved(selection, "x", "2" * 22, left=True)]).verdicts
    assert (stubborn.wins, stubborn.losses, stubborn.repeated, stubborn.repeated_same) == (10, 10, 2, 0)


def test_a_judge_who_saved_twice_counts_once_by_the_last_file(selection: Selection) -> None:
    late, early, ben = (
        saved(selection, "Ann", "2" * 20, 9),
        saved(selection, "Ann", "1" * 20, 8),
        saved(selection, "B", ""),
    )
    found = analyse(selection, [late, early, ben])
    assert [(one.judge, one.wins) for one in found.verdicts] == [("B", 0), ("Ann", 20), ("most people", 20)]
    assert "Ann saved 2 files; the last one counts." in found.notes


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
    nameless = good.model_dump_json().replace('"Ann"', r'" \n"').encode()
    for content in (b"{", b"[]", b"\xff", nameless, good.model_dump_json().encode()[:-9]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"holds no results: .*\n.*Save button"):
            read_file(file)
    with pytest.raises(UserError, match="No such file"):
        read_file(tmp_path / "missing.json")


def test_the_command_makes_a_page_and_analyses_its_results(run: RunDir, tmp_path: Path) -> None:
    made = semtag("judge", str(run.path), "--count", "20")
    assert made.returncode == 0, made.stderr
    assert "20 of 64 texts, chosen by hash. Left out: 6 where base or tuned has no tags, 7 where both" in made.stdout
    assert f"{decided_needed(0.65, 0.8)} decided texts show the difference with a power of 80%" in made.stdout
    assert (run.path / "judgement" / "judge.html").read_text().startswith("<!doctype html>")
    assert "judge.html is there already" in fails("judge", str(run.path))
    selection = select(run, "base", "tuned", 20)
    files = [tmp_path / "ann.json", tmp_path / "ben.json", tmp_path / "model.json"]
    for file, arms in zip(files, ("2" * 17 + "1" * 3, "2" * 9 + "1"), strict=False):
        file.write_text(saved(selection, file.stem.title() + "\x1b[31m", arms).model_dump_json())
    verdict = count_up(selection, "some/model", dict(enumerate("BA" * 20)))
    about: dict[str, Any] = {"page": selection.page, "first": "base", "second": "tuned", "items": 20}
    model = Judgement(**about, verdicts=[verdict], notes=[])
    files[2].write_text(model.model_dump_json())
    for _ in range(2):  # the analysis of a page takes the place of the last one
        done = semtag("judge", str(run.path), "--results", *map(str, files))
        assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "tuned is judged better than base more often than chance would have it" in done.stdout
    assert "some/model and most people judge 16 of 20 texts the same" in done.stdout
    assert "judged 10 of 20 texts." in done.stdout
    [written] = standing(run)
    assert [one.wins for one in written.verdicts] == [17, 9, 16]
    assert len(written.agreements) == 1 + 3
    other = ["--first", "tuned", "--second", "base_plain"]
    assert "is of another page" in fails("judge", str(run.path), *other, "--results", str(files[0]))
    assert "no file of a person" in fails("judge", str(run.path), "--results", str(files[2]))


def test_wrong_commands_get_the_cure(run: RunDir, tmp_path: Path) -> None:
    assert "is not a run directory" in fails("judge", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert "Overrides go with --model" in fails("judge", str(run.path), "sampling.dtype=float32")
    assert "No tokenizer at" in fails("judge", str(run.path), "--model", str(tmp_path / "nothing"))
    assert "No such file" in fails("judge", str(run.path), "--results", str(tmp_path / "nothing.json"))
