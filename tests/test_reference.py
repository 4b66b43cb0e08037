"""Reference log-probabilities: which of those from sampling are believed, and what is computed in their place."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.schema import Model
from semtag.configs.training import Training
from semtag.generation.prompts import load_tokenizer
from semtag.training.reference import Audit, audited, reference_logprobs
from semtag.training.tokenized import tokenized
from semtag.training.trainer import PreferenceTrainer
from tests.test_training import losses, trainer_for


@pytest.fixture(scope="module")
def base(model_path: str) -> str:
    return model_path


@pytest.fixture(scope="module")
def rows(base: str, lists: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Lists of which all completions but the last have the log-probability that the model gives them."""
    unknown = tokenized(lists, load_tokenizer(base, Model(base=base)))
    trainer = trainer_for(base, unknown, tmp_path_factory.mktemp("trainer"))

    def sampled(row: dict[str, Any]) -> dict[str, Any]:
        known = trainer.reference([row])[0][:-1]
        return {"reference": [*known, math.nan], "sampled": [*[True] * len(known), False]}

    return unknown.map(sampled)


def unknown(rows: Dataset) -> Dataset:
    """The same rows without what is known from sampling."""
    return rows.map(lambda row: {"reference": [math.nan] * len(row["reference"])})


def settled(trainer: PreferenceTrainer, out: Path, tolerance: float = 1e-3) -> tuple[dict[str, int], list[Any], str]:
    said = io.StringIO()
    lists = trainer.train_dataset
    counts = reference_logprobs(trainer, lists, tolerance, out / "references.npy", Progress("train", "steps", said))
    of_rows = trainer.references[lists["row"][:]].tolist()
    return counts, [row[: len(ids)] for row, ids in zip(of_rows, lists["scores"], strict=True)], said.getvalue()


def test_what_was_sampled_passes_the_audit_and_trains_alike(base: str, rows: Dataset, tmp_path: Path) -> None:
    known = np.array([value for row in rows["reference"] for value in row])
    assert 0 < np.isnan(known).sum() < len(known)
    sampled, recomputed = (trainer_for(base, data, tmp_path, beta=0.5) for data in (rows, unknown(rows)))
    (tmp_path / "one").mkdir()
    counts, references, said = settled(sampled, tmp_path)
    drawn, repaired = int((~np.isnan(known)).sum()), int(np.isnan(known).sum())
    assert counts == {"from_sampling": drawn, "recomputed_as_not_sampled_by_this_model": repaired}
    assert "log-probabilities from sampling are used" in said
    counts, expected, said = settled(recomputed, tmp_path / "one")
    assert counts == {
        "from_sampling": 0,
        "recomputed_for_another_prompt_or_grammar": drawn,
        "recomputed_as_not_sampled_by_this_model": repaired,
    }
    assert f"{drawn} recomputed for another prompt or grammar, {repaired} recomputed as not sampled by this" in said
    assert "audit" not in said
    assert np.concatenate(references) == pytest.approx(np.concatenate(expected), abs=1e-3)
    assert losses(sampled) == pytest.approx(losses(recomputed), abs=1e-3)


def test_settled_references_train_as_those_of_each_step(base: str, rows: Dataset, tmp_path: Path) -> None:
    settled_once, each_step = (trainer_for(base, rows, tmp_path, beta=0.5) for _ in range(2))
    settled(settled_once, tmp_path, tolerance=0)
    assert each_step.references is None
    assert losses(settled_once) == pytest.approx(losses(each_step), abs=1e-5)


def test_log_probabilities_of_other_weights_do_not_serve(base: str, rows: Dataset, tmp_path: Path) -> None:
    wrong = rows.map(lambda row: {"reference": [value - 0.5 for value in row["reference"]]})
    trainer = trainer_for(base, wrong, tmp_path)
    counts, references, said = settled(trainer, tmp_path)
    assert "log-probabilities from sampling are not used" in said
    known = ~np.isnan(np.concatenate(rows["reference"][:]))
    assert (counts["from_sampling"], counts["recomputed_after_the_audit"]) == (0, known.sum())
    (tmp_path / "one").mkdir()
    _, expected, _ = settled(trainer_for(base, unknown(rows), tmp_path), tmp_path / "one")
    assert references == expected


def test_a_few_wrong_ones_do_not_pass_in_the_mean(base: str, rows: Dataset, tmp_path: Path) -> None:
    def one_off(row: dict[str, Any]) -> dict[str, Any]:
        wrong = 0.3 * len(row["completion_ids"][0]) if row["row"] == 4 else 0.0
        return {"reference": [row["reference"][0] - wrong, *row["reference"][1:]]}

    trainer = trainer_for(base, rows.map(one_off), tmp_path)
    counts, _, said = settled(trainer, tmp_path, Training().audit_tolerance)
    assert "the mean gap to recomputed ones is 0.01" in said  # of 0.02 that are allowed
    assert "log-probabilities from sampling are not used" in said
    assert counts["from_sampling"] == 0


def test_the_audit_measures_nats_a_token(base: str, rows: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, rows, tmp_path)
    examples = [rows[index] for index in range(len(rows))]
    exact = np.concatenate([trainer.reference([example]) for example in examples if len(example["reference"]) == 3])
    three = rows.filter(lambda row: len(row["reference"]) == 3)
    lengths = np.array([list(map(len, row)) for row in three["completion_ids"]])
    shifted = exact + lengths * 0.25
    shifted[0, 0] += lengths[0, 0] * 0.5
    shifted[:, 1] = np.nan
    audit = audited(trainer, three, shifted)
    assert audit.completions == 2 * len(three)
    assert audit.largest == pytest.approx(0.75, abs=1e-4)
    assert audit.mean == pytest.approx(0.25 + 0.5 / audit.completions, abs=1e-4)
    assert 0.25 < audit.high < 0.75


def test_rounding_in_half_precision_passes_and_more_does_not() -> None:
    tolerance = Training().audit_tolerance
    assert Audit(128, mean=0.005, high=0.012, largest=0.012).agrees(tolerance)
    assert Audit(128, mean=0.015, high=0.05, largest=0.4).agrees(tolerance)
    assert not Audit(128, mean=0.015, high=0.07, largest=0.07).agrees(tolerance)
    assert not Audit(128, mean=0.03, high=0.05, largest=0.05).agrees(tolerance)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"beta": 0.1}, 0.02),
        ({"beta": 10}, 0.005),
        ({"beta": 10, "per_token": False}, 0.02),
        ({"beta": 10, "reference_tolerance": 0}, 0),
    ],
)
def test_the_tolerance_is_small_beside_the_target(settings: dict[str, Any], tolerance: float) -> None:
    assert Training(**settings).audit_tolerance == pytest.approx(tolerance)


def test_what_was_computed_is_not_computed_again(base: str, rows: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, unknown(rows), tmp_path)
    _, first, said = settled(trainer, tmp_path)
    assert f"of {len(rows)} of {len(rows)} lists" in said
    table = np.load(tmp_path / "references.npy")
    table[0, 0] = np.nan  # as if killed just before this row was whole
    table[1, 0] = -123.0
    np.save(tmp_path / "references.npy", table)
    again = trainer_for(base, unknown(rows), tmp_path)
    _, second, said = settled(again, tmp_path)
    assert f"of 1 of {len(rows)} lists; {len(rows) - 1} were computed before" in said
    assert second[1][0] == -123.0
    assert second[0] == pytest.approx(first[0], abs=1e-5)
    assert second[2:] == first[2:]


def test_a_log_probability_that_is_no_number_ends_the_training(base: str, rows: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, rows, tmp_path)
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[0] = torch.inf
    with pytest.raises(UserError, match=r"gives \d+ completions log-probabilities that are no finite numbers"):
        settled(trainer, tmp_path)
