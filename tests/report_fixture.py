"""A report with all that one can have, made by hand, and words in it that would like to run."""

from pathlib import Path
from typing import Any

import numpy as np

from semtag.configs.load import load_config
from semtag.evaluation.arms import TUNED, UNTRAINED
from semtag.evaluation.judging.outcomes import Judgement, agreement, alpha_of, verdict_of
from semtag.evaluation.judging.selection import Outcome
from semtag.evaluation.measures import MEASURES, TAGS
from semtag.evaluation.report import records
from semtag.evaluation.rows import Key, Series, by_key, write_rows
from semtag.store.run_dir import RunDir

ATTACK = "<script>alert(1)</script>"
ESCAPES = f"{ATTACK}</script><!--<img src=x onerror=alert(2)>&amp;\u2028"  # what would end a script of data
CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
OTHERS = ("base_best", "yake", "people")
AGREED = ("present_f1_at_m", "f1_at_m")


def estimate(value: float, reach: float = 0.05, n: int = 246) -> records.Estimate:
    return records.Estimate(value=value, low=value - reach, high=value + reach, n=n)


def contrast(
    family: str, second: str, measure: str, value: float, p_holm: float = 0.01, **changes: Any
) -> records.Contrast:
    good = (value > 0) == MEASURES[measure].higher_is_better
    found: records.Finding = "unclear" if p_holm >= 0.05 else "better" if good else "worse"
    own: dict[str, Any] = {"first": TUNED, "first_input": "tags", "second_input": "tags", "task": "tags", "method": ""}
    own |= {"difference": estimate(value), "p": p_holm / 2, "p_holm": p_holm, "finding": found} | changes
    return records.Contrast(family=family, second=second, measure=measure, **own)


def some_contrasts() -> list[records.Contrast]:
    """Better than each untrained arm by meaning, not by words, worse than one by similarity."""
    primary = [
        contrast("primary", second, measure, value, p)
        for second, weak in zip(UNTRAINED, (False, False, False, True), strict=True)
        for measure, value, p in (
            ("found_by_meaning", 0.11 if weak else 0.21, 0.03 if weak else 0.01),
            ("found_by_words", 0.07, 0.06 if weak else 0.01),  # the interval excludes 0, and p does not
            ("similarity", -0.2 if weak else 0.2, 0.02),
            ("well_formed", 0.25, 0.01),
            ("words", 1.5, 0.01),
        )
    ]
    equal = [contrast("equal words", second, "found_by_words", -0.3, 0.02) for second in ("yake", "people")]
    used = {"task": "search", "method": f"bm25 {ATTACK}", "first_input": "both", "second_input": "text"}
    return [
        *primary,
        contrast("best of many", "base_best", "similarity", -0.125, 0.04),
        *equal,
        contrast("uses", "text", "ndcg_at_10", 0.012, 0.3, **used),
    ]


def some_arm(name: str, value: float, agreed: bool = True) -> records.ArmFigures:
    return records.ArmFigures(
        name=name,
        means=f"what {name} means {ATTACK}",
        cost={"base_best": 8}.get(name, 1 if name.startswith(("base", "tuned")) else 0),
        cut=name in ("yake", "people"),
        missing=1,
        measures={key: estimate(2.5 if key == "words" else value) for key in TAGS},
        agreement={key: estimate(0.3, n=120) for key in AGREED} if agreed else {},
        defects={"extra_text": 1, ATTACK: 2},
        tags=12,
        distinct=7,
        frequent=[records.TagCount(tag=f"{name} {ATTACK}", texts=9), records.TagCount(tag="ships", texts=3)],
    )


def gate(name: str, measure: str, value: float, limit: float, outcome: records.Outcome) -> records.GateResult:
    return records.GateResult(
        name=name, measure=measure, bound=f"at least {limit} {ATTACK}", limit=limit, difference=estimate(value),
        outcome=outcome,
    )  # fmt: skip


def answer(arm: str, *tags: str, reason: str | None = None) -> records.ShownAnswer:
    form, score = ("invalid", None) if reason else ("valid", 0.5)
    return records.ShownAnswer(
        arm=arm, completion=f"so {ATTACK}", format=form, reason=reason, score=score, tags=list(tags)
    )


def some_examples() -> list[records.Example]:
    def one(place: int, gain: float, *answers: records.ShownAnswer) -> records.Example:
        return records.Example(
            text=f"text {place} {ATTACK}", gain=gain, answers=[*answers, answer("yake", "a", f"yake {ATTACK}")]
        )

    return [
        one(0, -0.5, answer("base", "same", ATTACK), answer("tuned", "Same", "other")),
        one(1, 0.25, answer("base", reason=f"no tags {ATTACK}"), answer("tuned", "a")),
    ]


def some_topics() -> records.Topics:
    points = [
        records.Point(
            x=0.5 * place, y=1.0 - place, topic=place % 3 - 1, text=f"spot {place} {ESCAPES}",
            tags=[ATTACK, f"tag {place}"], label=ATTACK if place else None,
        )
        for place in range(9)
    ]  # fmt: skip
    names = [records.TopicName(id=0, name=ATTACK, size=3), records.TopicName(id=1, name="ships, sails", size=3)]
    rows = [
        records.TopicFigures(arm=arm, input=read, texts=246, topics=2.5, outliers=0.1, ami=0.5, ami_inliers=None)
        for arm, read in (("text", "text"), ("tuned", "tags"), ("tuned", "both"))
    ]
    drawn = records.TopicMap(arm="tuned", points=points, topics=names)
    return records.Topics(seeds=5, labels=f"labels {ATTACK}", rows=rows, map=drawn)


def some_rounds() -> list[records.RoundLine]:
    """A warm start, and a preference round that was not validated."""
    gained = records.ValidationLine(texts=9, well_formed=0.75, mean_score=0.4375, gain=estimate(0.2, n=9))
    own = {"beta": 1.0, "steps": 5}
    return [
        records.RoundLine(round=1, loss="likelihood", learns_from="20 lists", references={}, validation=gained, **own),
        records.RoundLine(
            round=2, loss="ipo", learns_from=f"9 pairs {ATTACK}", references={"recomputed": 17}, validation=None, **own
        ),
    ]


def some_uses() -> list[records.UseFigures]:
    ways = (("text", "text"), ("tuned", "tags"), ("tuned", "both"))
    measured = {"search": ("ndcg_at_10", "recall_at_10", "map"), "classification": ("accuracy",)}
    return [
        records.UseFigures(
            task=task, arm=arm, input=read, method=f"way {ATTACK}",
            measures={name: estimate(0.7, n=600) for name in names},
        )
        for task, names in measured.items()
        for arm, read in ways
    ]  # fmt: skip


def some_report(**changes: Any) -> records.Report:
    arms = [some_arm("base", 0.4), some_arm("tuned", 0.6), *(some_arm(name, 0.5) for name in (*UNTRAINED[:3], *OTHERS))]
    curve = [{"loss": 1.0 - 0.25 * step, "nats_per_token/chosen": 0.1 * step} for step in range(3)]
    confused = [records.Confusion(true=f"{ATTACK} {place}", told="ships", texts=place) for place in range(10)]
    values: dict[str, Any] = {
        "run": f"demo {ATTACK}",
        "held_out_texts": 246,
        "resampled": "texts",
        "judge": records.Judge(model=f"judge {ATTACK}", trained_for=False),
        "arms": arms,
        "contrasts": some_contrasts(),
        "gates": [
            gate("form", "well_formed", 0.25, -0.02, "passed"),
            gate(f"found {ATTACK}", "found_by_words", -0.3, -0.03, "failed"),
            gate("stuffed answers", "words", 0.01, 0.0, "undecided"),
        ],
        "uses": some_uses(),
        "classification": records.ClassFigures(
            texts=246, classes=[ATTACK, "ships"], most_frequent=0.5, confusions=confused
        ),
        "topics": some_topics(),
        "examples": some_examples(),
        "rows": [records.Row(text=f"row {i} {ESCAPES}", base=[], tuned=[ATTACK, f"tag{i}"]) for i in range(90)],
        "similarities": {"base": [0.1, 0.2, 0.4], "tuned": [0.2, 0.3, 0.6]},
        "margins": records.Margins(edges=[0.0, 0.1, 0.2], counts=[3, 1], format=2),
        "curve": curve,
        "rounds": some_rounds(),
        "ledger": {f"rank-1 {ATTACK}": {"texts": {"in": 5, "out": 4, "dropped": {ATTACK: 1}}}},
        "weights": {"rank-1": {"model.weights": f"blake2b:0ba7 {ATTACK}"}},
        "config": load_config(CONFIG, [f"prompt.system={ATTACK}"]).model_dump(mode="json"),
        "versions": {"ray": f"1 {ATTACK}"},
    }  # fmt: skip
    return records.Report(**values | changes)


def run_of(folder: Path, report: records.Report, better: float = 0.0, texts: range = range(60)) -> RunDir:
    """Make a run that has been evaluated on the `texts`; `better` raises all but form and words."""
    run, ids_N = RunDir(folder), np.array(texts)
    shares = {"words": 4.0 + ids_N % 3, "well_formed": (ids_N % 2 < 1) * 1.0}
    with run.replace_folder(run.layout.evaluation) as written:
        (written / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
        own = by_key(
            Series(Key(TUNED, "tags", "tags", "", name), ids_N, ids_N, shares.get(name, ids_N % 5 / 10 + better))
            for name in TAGS
        )
        write_rows(own, written / run.layout.rows.name)
    return run


def named(*outcomes: Outcome) -> dict[str, Outcome]:
    """The outcomes by the names of their items."""
    return {f"item {place}": outcome for place, outcome in enumerate(outcomes)}


def some_judgement() -> Judgement:
    """Two people and a model over four texts, each with a name that would be markup."""
    ann = verdict_of(f"Ann {ATTACK}", "person", named("second", "second", "first", "tie"))
    ben = verdict_of("Ben", "person", named("second", "tie", "first", "tie"), repeated=2, repeated_same=1)
    return Judgement(
        page="4-0123456789abcdef", first="base", second="tuned", items=4, verdicts=[ann, ben],
        agreements=[agreement(ann, ben)], alpha=alpha_of([ann, ben]), notes=[f"4 of 9 texts {ATTACK}"],
    )  # fmt: skip
