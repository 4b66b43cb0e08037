"""Every shipped config loads; every mistake is named with its mend."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from semtag.configs.errors import UserError
from semtag.configs.load import dump_config, flatten, known_keys, load_config, validate
from semtag.configs.schema import Config

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "demo.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_load(path: Path) -> None:
    config = load_config(path)
    assert validate(config.model_dump()) == config


def test_the_published_experiment_to_the_letter() -> None:
    config = load_config(ROOT / "configs" / "zephyr_squad.yaml")
    assert config.model.base == "HuggingFaceH4/zephyr-7b-alpha"
    assert config.scoring.model == "thenlper/gte-large"
    assert (config.data.path, config.data.column) == ("squad_v2", "context")
    assert (config.pairs.strategy, config.pairs.format_share, config.sampling.samples) == ("first_two", 0.2, 2)
    training = config.training
    assert (training.loss, training.beta, training.lora.rank, training.four_bit) == ("ipo", 0.1, 16, True)
    assert training.likelihood_weight == 0
    assert config.evaluation.max_texts == 1000


def test_overrides_and_round_trip(tmp_path: Path) -> None:
    overrides = ["training.beta=0.5", "run.name=other", "training.learning_rate=1e-4", "data.limit=null", "run.seed=3"]
    config = load_config(DEMO, overrides)
    assert (config.training.beta, config.run.name, config.training.learning_rate) == (0.5, "other", 1e-4)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("scoring.text_prefix", "query: "),
        ("prompt.user", "Text: {text}"),
        ("prompt.user", "{text}"),
        ("prompt.user", "Tags for #{text}"),
        ("prompt.system", "One line.\nAnother: [tag]"),
        ("prompt.system", ""),
        ("run.name", "0123"),
        ("run.name", "2024-06-01"),
        ("run.root", "[mine]"),
        ("data.column", "no"),
        ("data.path", "news #2.jsonl"),
        ("data.path", "0123/"),
        ("data.article_column", "~"),
        ("model.base", "my: model"),
        ("evaluation.second_model", "1e3"),
        ("prompt.examples", "a #b.jsonl"),
        ("prompt.examples", "{a}.jsonl"),
        ("training.lora.target_modules", "no"),
        ("cluster.address", "127.0.0.1:6379"),
    ],
)
def test_an_override_of_text_is_taken_as_it_is(key: str, text: str) -> None:
    assert flatten(load_config(DEMO, [f"{key}={text}"]))[key] == text


@given(st.text())
def test_any_text_survives_an_override(text: str) -> None:
    config = load_config(DEMO, [f"prompt.system={text}", f"scoring.text_prefix={text}", f"sampling.candidates={text}"])
    assert config.prompt.system == config.scoring.text_prefix == config.sampling.candidates == text
    assert validate(yaml.safe_load(dump_config(config))) == config


def test_overrides_within_lists_and_rounds_know_what_is_text() -> None:
    examples = [
        "prompt.examples=[{text: a, answer: '[b]'}]",
        "prompt.examples.0.text=x: #1",
        "prompt.examples.0.answer=1",
    ]
    labels = ["evaluation.labels={1: World}", "evaluation.labels.2=no: #2"]
    each = ["rounds.each=[{}, {}]", "rounds.each.1.sampling.candidates=no", "rounds.each.1.sampling.samples=3"]
    lora = ["rounds.each.0.training.lora.target_modules=[q_proj, v_proj]", "rounds.each.0.training.lora.rank=2"]
    config = load_config(DEMO, [*examples, *labels, *each, *lora])
    assert [example.model_dump() for example in config.prompt.examples] == [{"text": "x: #1", "answer": "1"}]  # type: ignore[union-attr]
    assert config.evaluation.labels == {"1": "World", "2": "no: #2"}
    assert (config.of_round(2).sampling.candidates, config.of_round(2).sampling.samples) == ("no", 3)
    assert config.of_round(1).training.lora.target_modules == ["q_proj", "v_proj"]


def test_null_is_none_where_a_key_may_be_empty() -> None:
    may, must = ["data.subset", "data.article_column", "evaluation.reranker", "model.chat_template"], "data.column"
    config = flatten(load_config(DEMO, [f"{key}=null" for key in [*may, must]]))
    assert [config[key] for key in [*may, must]] == [None, None, None, None, "null"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.betta=1", "Unknown config key training.betta. Did you mean training.beta?"),
        ("beta=1", "Unknown config key beta. Did you mean training.beta?"),
        ("sampling.temprature=1", "Did you mean sampling.temperature?"),
        ("training.beta=0", "training.beta: Input should be greater than 0 (got 0)"),
        ("training.beta=-1", "training.beta: Input should be greater than 0 (got -1)"),
        ("training.beta=.inf", "training.beta"),
        ("sampling.samples=lots", "sampling.samples"),
        ("sampling.samples=1", "sampling.samples must be at least 2"),
        ("evaluation.labels={a: World, b: World}", "2 classes have the same description: World"),
        ("sampling.tensor_parallel=2", "sampling.tensor_parallel 2 needs whole GPUs"),
        ("sampling.gpus_per_actor=2", "sampling.gpus_per_actor 2 leaves GPUs idle"),
        ("sampling.accelerator_type=H100", "sampling.accelerator_type H100 needs sampling.gpus_per_actor"),
        ("scoring.gpus_per_actor=2", "scoring.gpus_per_actor: Input should be less than or equal to 1 (got 2)"),
        ("run.name=a/b", "'a/b' is not a run name"),
        ("run.name=..", "'..' is not a run name"),
        ("run.name=é", "'é' is not a run name"),
        ("run.name=٣", "'٣' is not a run name"),
        (
            "run.root=s3://bucket/my runs",
            "run.root: 's3://bucket/my runs' cannot hold runs: use a path, s3://BUCKET/PATH",
        ),
        ("run.root=gs://bucket/é", "run.root: 'gs://bucket/é' cannot hold runs: use a path, s3://BUCKET/PATH"),
        ("run.root=s3://bucket/a%20b", "run.root: 's3://bucket/a%20b' cannot hold runs: use a path, s3://BUCKET/PATH"),
        ("run.name=", "is not a run name"),
        ("prompt.user=hello", "must contain {text}"),
        ("prompt.examples=[{text: x, answer: '[a]', more: 1}]", "Unknown config key prompt.examples.0.more"),
        ("rounds.validation=0.9", "rounds.validation: Input should be less than or equal to 0.5 (got 0.9)"),
        ("training=3", "training"),
        ("run.name.x=3", "run.name"),
        ("nonsense", "'nonsense' is not an override"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.samples=1", "pairs.strategy=all_pairs"], "sampling.samples must be at least 2"),
        (["sampling.actors=3", "sampling.max_actors=2"], "sampling.max_actors 2 is less than sampling.actors 3"),
        (["scoring.actors=3", "scoring.max_actors=2"], "scoring.max_actors 2 is less than scoring.actors 3"),
        (["sampling.tensor_parallel=2", "sampling.gpus_per_actor=0.5"], "needs whole GPUs"),
        (["sampling.tensor_parallel=4", "sampling.gpus_per_actor=2"], "needs whole GPUs"),
        (["training.workers=2"], "training.launcher local is one process"),
        (["training.parallel=zero2"], "need training.launcher accelerate or ray"),
        (["training.launcher=accelerate"], "needs training.workers of 2 or more"),
        (
            ["training.launcher=ray", "training.four_bit=true", "training.parallel=zero3"],
            "Semtag does not shard weights in 4 bit",
        ),
        (
            ["training.launcher=ray", "training.four_bit=true", "training.parallel=fsdp2"],
            "Semtag does not shard weights in 4 bit",
        ),
        (["training.loss=ipo_margin", "rounds.each=[]"], "ipo_margin needs the scores of lists"),
        (["training.loss=lipo_lambda", "rounds.each=[]"], "set training.data to lists"),
        (["training.loss=plackett_luce", "rounds.each=[]"], "set training.data to lists"),
        (["training.accelerator_type=H100"], "needs training.gpus_per_worker 1"),
        (["pairs.list_least=3", "pairs.list_most=2"], "pairs.list_most 2 is less than list_least 3"),
        (["sampling.temperature=0"], "nothing differs among samples at temperature 0"),
        (["training.patience=2"], "set training.held_out"),
        (["training.launcher=ray", "run.root=s3://bucket/runs"], "not in run.root s3://bucket/runs; set training.laun"),
    ],
)
def test_settings_that_contradict_each_other_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, overrides)
    assert message in str(caught.value)
    assert "got" not in str(caught.value)


def test_log_ratios_are_averaged_or_summed_as_the_loss_is_published() -> None:
    def averages(*overrides: str) -> bool:
        return load_config(DEMO, ["rounds.each=[]", "training.data=lists", *overrides]).training.averages

    assert averages() and averages("training.loss=ipo_margin") and averages("training.per_token=true")
    for loss in ("sigmoid", "lipo_lambda", "plackett_luce"):
        assert not averages(f"training.loss={loss}")
        assert averages(f"training.loss={loss}", "training.per_token=true")
    assert not averages("training.per_token=false")


def test_an_engine_over_several_gpus_holds_them_all() -> None:
    def gpus(*overrides: str) -> float:
        return load_config(DEMO, overrides).sampling.gpus

    assert gpus() == 0
    assert gpus("sampling.gpus_per_actor=0.7") == 0.7
    assert gpus("sampling.gpus_per_actor=1", "sampling.tensor_parallel=4") == 4
    assert gpus("sampling.gpus_per_actor=4", "sampling.tensor_parallel=4") == 4


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a config that is shipped"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("run: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="holds a list"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "unsafe.yaml").write_text("run: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "unsafe.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError, match="run is missing"):
        load_config(tmp_path / "empty.yaml")


def test_every_key_is_documented_and_operational_ones_do_not_shape() -> None:
    def undocumented(model: type, prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if hasattr(field.annotation, "model_fields"):
                found += undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                found.append(prefix + name)
        return found

    assert undocumented(Config) == []
    config = load_config(DEMO)
    assert "run.root" in set(known_keys()) - flatten(config, shaping_only=True).keys()
    assert flatten(config).keys() == set(known_keys())
