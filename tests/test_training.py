"""Training on the real TRL: the first loss, parity, lengths, resuming, and merging."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from safetensors.torch import load_file
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, get_scheduler

from semtag.configs.errors import UserError
from semtag.configs.schema import Model
from semtag.configs.training import Lora, Training
from semtag.generation.prompts import load_tokenizer, prompt_ids
from semtag.scoring.records import PAIR
from semtag.store.parquet import RowWriter
from semtag.training.cpu_kernels import lean_head_on_cpus, utils
from semtag.training.merge import merge
from semtag.training.tokenized import load_rows
from semtag.training.trainer import PreferenceTrainer, trainer_arguments
from semtag.training.worker import last_checkpoint, load_base, lora_config
from tests.conftest import asked, said


@pytest.fixture(scope="module")
def base(model_path: str) -> str:
    return model_path


def test_pairs_come_in_one_order_whatever_the_files(tmp_path: Path) -> None:
    def row(id_: int, chosen: int, rejected: int) -> dict[str, Any]:
        keys = {"text_id": id_, "chosen_sample": chosen, "rejected_sample": rejected}
        sides = {"prompt": said(f"p{id_}"), "chosen": said(f"c{chosen}"), "rejected": said(f"r{rejected}")}
        return dict.fromkeys(PAIR.names) | keys | sides

    rows = [row(3, 0, 1), row(-5, 1, 0), row(3, 0, 2), row(7, 2, 0)]
    loaded = []
    for number, order in enumerate(([0, 1, 2, 3], [3, 2, 1, 0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for file, half in (("a", order[:2]), ("b", order[2:])):
            with RowWriter(folder / f"{file}.parquet", PAIR) as out:
                for index in half:
                    out.write(rows[index])
        loaded.append(load_rows(folder, "pairs", tmp_path / f"cache{number}").to_list())
    assert loaded[0] == loaded[1]
    assert [one["rejected"][0]["content"] for one in loaded[0]] == ["r0", "r1", "r2", "r0"]
    assert (loaded[0][0]["prompt"], loaded[0][0]["chosen"]) == (said("p-5"), said("c1"))


def trainer_for(base: str, pairs: Dataset, out: Path, **settings: Any) -> PreferenceTrainer:
    training = Training(max_steps=3, batch_size=4, report_to=[], learning_rate=1e-3, **settings)
    return PreferenceTrainer(
        training,
        model=load_base(base, training),
        args=trainer_arguments(training, str(out), 0, on_gpu=False),
        train_dataset=pairs,
        processing_class=load_tokenizer(base, Model(base=base)),
        peft_config=lora_config(training),
    )


def losses(trainer: PreferenceTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("loss", "beta", "first"),
    [("ipo", 0.1, 25.0), ("ipo", 0.5, 1.0), ("ipo", 2.0, 0.0625), ("sigmoid", 0.5, 0.693147)],
)
def test_the_first_loss_is_known(
    loss: str, beta: float, first: float, base: str, pairs: Dataset, tmp_path: Path
) -> None:
    assert Training(loss=loss, beta=beta).first_loss == pytest.approx(first)
    trainer = trainer_for(base, pairs, tmp_path, loss=loss, beta=beta)
    assert losses(trainer)[0] == pytest.approx(first, rel=1e-4)
    assert trainer.first_loss == pytest.approx(first, rel=1e-4)


def test_the_likelihood_term_adds_to_the_loss_but_not_to_the_check(base: str, pairs: Dataset, tmp_path: Path) -> None:
    assert losses(trainer_for(base, pairs, tmp_path, beta=0.5, likelihood_weight=1.0))[0] > 1.2


@pytest.mark.parametrize("loss", ["ipo", "ipo_margin", "sigmoid", "lipo_lambda", "plackett_luce"])
def test_whole_lists_train_towards_their_best_answers(loss: str, base: str, lists: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, lists, tmp_path, data="lists", loss=loss, beta=0.5)
    found = losses(trainer)
    assert len(found) == 3
    assert all(loss > 0 for loss in found)
    batch = trainer.data_collator([*trainer.train_dataset])
    with torch.no_grad():
        gains = trainer.log_probs(trainer.model, batch) - trainer._reference_log_probs(trainer.model, batch)
    gains /= batch["lengths"].clamp(min=1)
    worst = gains.gather(1, batch["present"].sum(dim=1, keepdim=True) - 1)  # answers stand by falling score
    assert (gains[:, :1] > worst).all()


def test_a_false_start_is_refused(base: str, pairs: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, pairs, tmp_path)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    with pytest.raises(UserError, match=r"differ by [0-9.]+ nats per token in the mean, and by at most 0.001 if"):
        trainer.train()


def test_references_of_another_model_are_refused(base: str, pairs: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, pairs, tmp_path, beta=0.5)
    trainer.references = torch.arange(2.0 * len(pairs)).reshape(-1, 2) - 100
    trainer.reference_gap = 1e-3
    with pytest.raises(UserError, match=r"at most 0\.003 if they are the same model"):
        trainer.train()


@pytest.mark.parametrize("per_token", [True, False])
def test_accuracy_compares_what_the_loss_compares(per_token: bool, base: str, lists: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, lists, tmp_path, per_token=per_token)
    inputs = trainer.data_collator([trainer.train_dataset[0]])
    inputs["lengths"] = torch.tensor([[2, 9, 1]])
    inputs["scores"], inputs["present"] = torch.tensor([[1.0, 0.0, 0.5]]), torch.ones(1, 3, dtype=torch.bool)
    best = torch.tensor([[True, False, False]])
    trainer._log_nats_per_token(torch.tensor([[1.0, 1.8, 0.0]]), best, inputs, "train")  # 0.5 and 0.2 a token
    assert trainer._metrics["train"]["accuracy"] == [float(per_token)]


def test_a_constant_rate_is_warmed_up(tmp_path: Path) -> None:
    arguments = trainer_arguments(Training(schedule="constant", warmup=0.5), str(tmp_path), 0, on_gpu=False)
    rate = get_scheduler(arguments.lr_scheduler_type, AdamW([torch.ones(1)], lr=1.0), 2, 4)
    assert rate.lr_lambdas[0](1) == 0.5


@pytest.fixture
def lean_head(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_use_triton", "_ChunkedLogProbFunction"):
        monkeypatch.setattr(utils, name, getattr(utils, name))


def test_a_lean_head_changes_no_figure(base: str, pairs: Dataset, tmp_path: Path, lean_head: None) -> None:
    everything = losses(trainer_for(base, pairs, tmp_path / "all", beta=0.5))
    lean_head_on_cpus()
    assert losses(trainer_for(base, pairs, tmp_path / "some", beta=0.5)) == pytest.approx(everything, abs=1e-5)


def test_nats_per_token_agree_with_the_loss_of_a_single_pair(base: str, pairs: Dataset, tmp_path: Path) -> None:
    training = Training(max_steps=3, batch_size=1, beta=0.5, report_to=[], learning_rate=1e-3, warmup=0.0)
    trainer = PreferenceTrainer(
        training,
        model=load_base(base, training),
        args=trainer_arguments(training, str(tmp_path), 0, on_gpu=False),
        train_dataset=pairs,
        processing_class=load_tokenizer(base, Model(base=base)),
        peft_config=lora_config(training),
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in entries:
        assert entry["loss"] == pytest.approx((entry["nats_per_token/margin"] - 1.0) ** 2, abs=1e-4)
    assert abs(entries[-1]["nats_per_token/margin"]) > 1e-4


def test_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    for half in ('{"epoch": 0.5, "log_hist', ""):
        (tmp_path / "checkpoint-30" / "trainer_state.json").write_text(half)
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_merged_in_float32_and_rounded_once(dtype: torch.dtype, base: str, tmp_path: Path) -> None:
    start, adapter, merged = (tmp_path / name for name in ("start", "adapter", "merged"))
    AutoModelForCausalLM.from_pretrained(base).to(dtype).save_pretrained(start)
    shutil.copy(Path(base) / "tokenizer.json", start)
    training = Training(lora=Lora(rank=4, alpha=12))
    model = get_peft_model(load_base(str(start), training), lora_config(training))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(adapter)
    (adapter / "README.md").write_text("---\nlibrary_name: peft\n---\nA card.\n")
    load_tokenizer(base, Model(base=base)).save_pretrained(adapter)
    merge(str(start), str(adapter), merged)
    plain, found = load_file(start / "model.safetensors"), load_file(merged / "model.safetensors")
    low_rank = load_file(adapter / "adapter_model.safetensors")
    changed = 0
    assert found.keys() == plain.keys()
    for name, weight in plain.items():
        left = low_rank.get(f"base_model.model.{name.removesuffix('weight')}lora_B.weight")
        assert found[name].dtype == dtype
        if left is not None:
            right = low_rank[f"base_model.model.{name.removesuffix('weight')}lora_A.weight"]
            changed += 1
            weight = (weight.float() + left.float() @ right.float() * (12 / 4)).to(dtype)
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6 if dtype == torch.float32 else 0)
    assert changed == 2 * 7  # layers, each with as many linear maps
    assert "library_name: transformers" in (merged / "README.md").read_text()


def test_a_small_models_tokenizer_reads_back_what_it_writes_and_opens_with_the_prompt(base: str) -> None:
    tokenizer = load_tokenizer(base, Model(base=base))
    answer = "[steam engine][governor][Élan]"
    assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]) == answer
    messages = asked("A text about engines.")
    whole = tokenizer.apply_chat_template([*messages, *said(answer)], return_dict=False)
    prompt = prompt_ids(tokenizer, messages)
    assert whole[: len(prompt)] == prompt
    assert whole.count(tokenizer.eos_token_id) == 3
    assert whole[-1] == tokenizer.eos_token_id
