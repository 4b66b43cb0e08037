"""Training on GPUs and in half precision, as far as a CPU shows it: rounding, 4 bit, DeepSpeed, several GPUs."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.schema import Model
from semtag.configs.training import Training
from semtag.generation.prompts import load_tokenizer
from semtag.training.trainer import PreferenceTrainer, trainer_arguments
from semtag.training.worker import load_base, use_one_gpu
from tests.test_training import losses, trainer_for


@pytest.fixture(scope="module")
def base(model_path: str) -> str:
    return model_path


@pytest.mark.parametrize("loss", ["ipo", "lipo_lambda"])
def test_rounding_is_no_false_start(loss: str, base: str, lists: Dataset, tmp_path: Path) -> None:
    trainer = trainer_for(base, lists, tmp_path, data="lists", loss=loss)
    inputs = trainer.data_collator([trainer.train_dataset[place] for place in range(4)])
    torch.manual_seed(0)
    noise = torch.randn(inputs["scores"].shape) * inputs["lengths"]
    trainer._check_first_ratios(1e-6 * noise, inputs)  # lipo_lambda's loss would move by a quarter
    with pytest.raises(UserError):
        trainer._check_first_ratios(0.02 * noise, inputs)
    with pytest.raises(UserError):
        trainer._check_first_ratios(torch.nan * noise, inputs)
    rough = trainer_for(base, lists, tmp_path, data="lists", loss=loss, dtype="bfloat16")
    rough._check_first_ratios(0.02 * noise, inputs)  # as on an H200 with a model of 1B
    with pytest.raises(UserError):
        rough._check_first_ratios(0.2 * noise, inputs)


def test_adapters_of_weights_in_4_bit_are_float32_before_and_after_a_resume(
    base: str, pairs: Dataset, tmp_path: Path
) -> None:
    def dtypes(trainer: PreferenceTrainer) -> set[torch.dtype]:
        return {one.dtype for one in trainer.model.parameters() if one.requires_grad}

    trainer = trainer_for(base, pairs, tmp_path, four_bit=True, save_steps=2)
    assert dtypes(trainer) == {torch.float32}
    undisturbed = losses(trainer)
    resumed = trainer_for(base, pairs, tmp_path, four_bit=True, save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert dtypes(resumed) == {torch.float32}
    again = [entry["loss"] for entry in resumed.state.log_history if "loss" in entry]
    assert again == pytest.approx(undisturbed, abs=1e-5)
    one, two = (dict(of.model.named_parameters()) for of in (trainer, resumed))
    learned = [name for name, parameter in one.items() if parameter.requires_grad]
    assert max(float((one[name] - two[name]).abs().max()) for name in learned) < 1e-6


def test_deepspeed_does_not_round_scores(
    base: str, lists: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(base, lists, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    batch["scores"] = torch.tensor([[0.8530, 0.8535, 0.8540]])
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin)
    trainer.is_deepspeed_enabled = True
    assert torch.equal(trainer._prepare_inputs(batch)["scores"], batch["scores"])


def test_one_process_trains_on_one_of_several_gpus(base: str, pairs: Dataset, tmp_path: Path) -> None:
    training, said = Training(max_steps=1, report_to=[]), io.StringIO()
    arguments = trainer_arguments(training, str(tmp_path), 0, on_gpu=False)
    arguments._n_gpu = 2
    parts = {"train_dataset": pairs, "processing_class": load_tokenizer(base, Model(base=base))}
    with pytest.raises(ValueError, match="DataParallel"):
        PreferenceTrainer(training, model=load_base(base, training), args=arguments, **parts)
    use_one_gpu(arguments, Progress("train", "steps", said))
    PreferenceTrainer(training, model=load_base(base, training), args=arguments, **parts)
    assert (
        "one of 2 GPUs. To use all of them, set training.launcher=accelerate and training.workers=2" in said.getvalue()
    )


def test_four_bit_gradients_are_those_of_the_dequantised_weights(base: str) -> None:
    import bitsandbytes.functional as quantised

    four_bit = load_base(base, Training(four_bit=True))
    dense = load_base(base, Training())
    layers = dict(four_bit.named_modules())
    with torch.no_grad():
        for name, module in dense.named_modules():
            weight = getattr(layers[name], "weight", None)
            if hasattr(weight, "quant_state"):
                module.weight.copy_(quantised.dequantize_4bit(weight.data, weight.quant_state))
    ids = torch.randint(10, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (four_bit, dense):
        model.eval()
        with torch.no_grad():
            model(ids)  # the forward pass after which the layer would repack its weights
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=embeddings, labels=ids).loss.backward()
        gradients.append(embeddings.grad)
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 1e-3
