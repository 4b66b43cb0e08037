"""A language model as the judge of two arms' tags: each text in both orders, so that position alone decides nothing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import Tally, ray_session
from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.configs.load import override
from semtag.configs.schema import Config
from semtag.evaluation.judge import Item, Outcome, Selection, free_place, select
from semtag.evaluation.judgement import outcome_rows, tally, verdict
from semtag.evaluation.page import Figures, shown
from semtag.evaluation.statistics import sign_test
from semtag.generation.decoding import Decoding
from semtag.generation.parse import answer_of
from semtag.generation.preflight import check_model
from semtag.generation.records import TEXT
from semtag.scoring.pipeline import sampled_rows
from semtag.store.locations import Place, write_json
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir

QUESTION = """\
Here is a text, and two lists of tags for it.

Text: {text}

Answer A: {a}
Answer B: {b}

Which tag list describes the text better? Answer with A or B only."""


def letters(tokenizer: Any) -> list[int]:
    """The tokens that say A or B and no more, with or without a space before. Raises UserError if one has none."""
    short = {id_ for token, id_ in tokenizer.get_vocab().items() if len(token) <= 3 and token[-1:] in ("A", "B")}
    said = {id_: tokenizer.decode([id_]).strip() for id_ in short}
    if missing := {"A", "B"} - set(said.values()):
        raise UserError(f"The judge has no token for {' and '.join(sorted(missing))}.", "Take another model.")
    return sorted(id_ for id_, letter in said.items() if letter in ("A", "B"))


def questions(items: Sequence[Item]) -> list[str]:
    """Two questions an item, one after the other: the first arm's tags as A, then the second's."""
    asked = []
    for item in items:
        tags = [answer_of(item.first), answer_of(item.second)]
        asked += [QUESTION.format(text=item.text, a=a, b=b) for a, b in (tags, tags[::-1])]
    return asked


def outcome_of(first_as_a: str, second_as_a: str) -> Outcome:
    """The arm that won in both orders; a tie where the position decided."""
    if first_as_a == second_as_a:
        return "tie"
    return "first" if first_as_a == "A" else "second"


def count_up(selection: Selection, answers: dict[int, str]) -> Figures:
    """All figures; `answers` to the questions by their number, without those that the model could not be asked."""
    pairs = {
        item.id: (answers[2 * place], answers[2 * place + 1])
        for place, item in enumerate(selection.items)
        if 2 * place in answers and 2 * place + 1 in answers
    }
    said = Counter(answer for pair in pairs.values() for answer in pair)
    # The two answers on a text depend on each other: who has a preference gives an A and a B. Where position decided,
    # it is A twice or B twice, and a fair judge would as often give the one as the other.
    decided = Counter(pair[0] for pair in pairs.values() if pair[0] == pair[1])
    position = {
        "share": said["A"] / said.total() if said else None,
        "first_twice": decided["A"],
        "second_twice": decided["B"],
        "p": sign_test(decided["A"], decided["B"]),
    }
    return {
        "page": selection.page,
        "first": selection.first,
        "second": selection.second,
        "items": len(selection.items),
        **tally(outcome_of(*pair) for pair in pairs.values()),
        "position": position,
        "answers": [{"item": id_, "first_as_a": one, "second_as_a": other} for id_, (one, other) in pairs.items()],
    }


def ask(
    config: Config, model: str, allowed: list[int], items: Sequence[Item], scratch: Place, progress: Progress
) -> tuple[Any, Any]:
    """The model's answers by number of the question, and how many questions it could not be asked, by reason.

    An answer is one of the `allowed` tokens.
    """
    asked = questions(items)
    with RowWriter(scratch / "questions.parquet", TEXT) as out:
        for number, question in enumerate(asked):
            out.write({"text_id": number, "text": question, "article": None, "meta": "{}"})
    answers, failed = dict[int, str](), Counter[str]()
    progress.begin(len(asked))
    # Other tokens are masked rather than a grammar compiled: that works with every tokenizer.
    judged = Decoding("judged", max_tokens=1, allowed_tokens=tuple(allowed))
    with ray_session(config):
        rows = sampled_rows(scratch / "questions.parquet", config, model, [judged], Tally())
        for row in rows.iter_rows():
            if row["reason"]:
                failed[row["reason"]] += 1
            else:
                answers[row["text_id"]] = row["candidates"][0]["completion"].strip()
            progress.advance()
    return answers, failed


def judging_config(run: RunDir, model: str, overrides: list[str]) -> Config:
    """The run's config with the judge in place of the model: its own chat template, no system message."""
    values = run.config().model_dump()
    values["model"] = {"base": model}
    values["prompt"] = {"system": "", "user": "{text}"}
    values["sampling"]["engine"] = "vllm"
    return override(values, overrides)


def judge(run: RunDir, asked: Any, progress: Progress) -> Figures:
    """Ask the model, write its judgement, show it; returns the counts."""
    place = free_place(run, asked.out, "model.json")
    config = judging_config(run, asked.model, asked.overrides)
    allowed = letters(check_model(asked.model, config, trained=False))  # a wrong model shows before anything starts
    selection = select(run, asked.first, asked.second, asked.count)
    progress.say(f"{asked.model} judges {selection.story}")
    with run.lock(), run.shared_temporary_folder("judge") as scratch:
        answers, failed = ask(config, asked.model, allowed, selection.items, scratch, progress)
    if not answers:
        raise UserError(
            f"The judge could not be asked: {dict(failed)}.",
            "Raise sampling.max_model_len or take another model; the log says more.",
        )
    found = {"model": asked.model, **count_up(selection, answers), "not_asked": dict(failed)}
    write_json(place, found)
    progress.say(model_table(found))
    return {"texts_judged": found["judged"], "questions_not_asked": dict(failed), "file": str(place)}


def model_table(found: Figures) -> str:
    """The judgement for a terminal."""
    first, second, position = found["first"], found["second"], found["position"]
    rows = [["", found["model"]], *outcome_rows(first, second, "position decided", [("", found)])]
    rows.append(["first place chosen", shown(position["share"], "percent")])
    rows.append(["  p, if by chance", shown(position["p"], "p")])
    return "\n".join(["", *text_table(rows, right=[1]), "", verdict(first, second, found)])
