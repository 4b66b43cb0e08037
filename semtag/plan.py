"""The plan of a run, as `--dry-run` prints it, and the checks of model and trackers before a run."""

import importlib.util
from pathlib import Path

from semtag.cluster.cpu_features import has_bfloat16
from semtag.cluster.placement import check_fits, check_training_fits, needs_of, offer, table, training_need
from semtag.cluster.ray_session import nodes_to_use, place
from semtag.configs.errors import UserError
from semtag.configs.load import dump_config
from semtag.configs.schema import Config
from semtag.configs.training import Training
from semtag.pipeline import steps_of
from semtag.store.locations import is_hub_name, place_at
from semtag.store.packaged import is_packaged, source_files
from semtag.store.rounds import base_of
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES

# The experiment trackers that transformers knows: name -> the Python module that the tracker needs.
TRACKERS = {
    "azure_ml": "azureml", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "kubeflow": "transformers", "mlflow": "mlflow",
    "neptune": "neptune", "swanlab": "swanlab", "tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb",
}  # fmt: skip


def show_plan(run: RunDir, config: Config) -> None:
    """Print the resolved config, the texts found, the state of each step, and the placement of the actors.

    Raises UserError when a base model in a folder does not fit the config. Raises UserError when the cluster at
    cluster.address lacks room for the actors. With cluster.address=local, a lack of room is only printed, because a
    plan may be for a larger machine.
    """
    from semtag.generation.preflight import check_base
    from semtag.generation.texts import preview

    # Check a base model only if the model is on this machine, because a plan downloads and converts nothing.
    if Path(config.model.base).exists() and not is_packaged(config.model.base):
        check_base(config.model.base, config)
    print(dump_config(config))
    # Collect the lines of the plan, then those of the steps.
    plan = {
        "run": run.path,
        "texts": preview(config.data),
        "base": base_of(config),
        "sampling": f"{config.sampling.samples} candidates a text{_server(config)}",
        "scoring": config.scoring.named,
    }
    for number in range(1, config.rounds.count + 1):
        plan[f"round {number}"] = _training_plan(config.of_round(number).training)
    if config.training.launcher != "local":
        launcher, workers = config.training.launcher, config.training.workers
        plan["launcher"] = f"{launcher}: {workers} processes, {config.training.parallel}"
    steps = {
        step.name: "done, would be skipped" if run.is_done(step) else f"to do: {STAGES[step.stage].help}"
        for step in steps_of(run, config)
    }
    print("Plan")
    for name, what in [*plan.items(), *steps.items()]:
        print(f"  {name:<10} {what}")
    _show_placement(config)


def slow_types(config: Config) -> list[str]:
    """Return the overrides that replace bfloat16 by float32, where this machine's CPU computes without bfloat16.

    Empty for a run on GPUs or on a cluster, and for sampling by replay, which computes nothing.
    """
    sampling = config.sampling
    if config.cluster.address != "local" or sampling.gpus_per_actor or has_bfloat16():
        return []
    types = {"sampling.dtype": sampling.dtype if sampling.engine == "vllm" else None}
    types["training.dtype"] = config.training.dtype
    return [f"{key}=float32" for key, dtype in types.items() if dtype == "bfloat16"]


def _server(config: Config) -> str:
    sampling = config.sampling
    return f" from {sampling.served_model} at {sampling.endpoint}" if sampling.engine == "openai" else ""


def _training_plan(training: Training) -> str:
    first = f": the first loss is {training.first_loss:g}" if training.first_loss else ""
    precision = "4-bit NF4" if training.four_bit else training.dtype
    beta = "" if training.loss == "likelihood" else f", beta {training.beta:g}{first}"
    return f"{training.rows}, {training.loss}{beta}; LoRA rank {training.lora.rank}, {precision}"


def _show_placement(config: Config) -> None:
    needs = needs_of(config)
    print("Placement of ranking and evaluation")
    for line in table(needs):
        print(f"  {line}")
    nodes = nodes_to_use(config)
    print(f"  {place(config)}: {offer(nodes)}", flush=True)
    try:
        check_fits(needs, nodes, place(config))
        if config.training.launcher == "ray":
            check_training_fits(training_need(config), nodes, place(config))
    except UserError as error:
        if config.cluster.address != "local":
            raise
        print(f"  the run would not start on this machine: {error.what}")


def check_model(config: Config) -> None:
    """Check that the base model can be loaded, without a lookup of hub names.

    Raises UserError for a packaged model without its package, and for a revision of a model that is on no hub. Raises
    UserError for a path without config.json or weights in safetensors.
    """
    base = config.model.base
    if is_hub_name(base):
        return
    if config.model.revision:
        raise UserError(
            f"model.revision={config.model.revision} needs a model on a hub, and {base} is not on a hub.",
            "Set model.revision to null, or model.base to a name on a hub.",
        )
    if is_packaged(base):
        source_files(base)  # raises UserError without the package
        return
    # All other names are paths.
    path = place_at(base)
    if not (path / "config.json").is_file():
        problem = "has no config.json" if path.exists() else "does not exist"
        raise UserError(f"The model path {base} {problem}.", "Check model.base. A relative path starts in this folder.")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"The model path {base} holds no weights in safetensors. Semtag loads no other format, because a "
            "pickle can run code.",
            "Save the model as safetensors with transformers, or set model.base to another model.",
        )


def check_trackers(config: Config) -> None:
    """Check that transformers knows the trackers of training.report_to, and that their packages are installed.

    Raises UserError if not.
    """
    rounds = [config.of_round(number).training for number in range(1, config.rounds.count + 1)]
    for tracker in dict.fromkeys(name for training in rounds for name in training.report_to):
        if tracker not in TRACKERS:
            raise UserError(
                f"training.report_to: {tracker!r} is no tracker that transformers knows.",
                f"Known trackers: {', '.join(sorted(TRACKERS))}.",
            )
        if not importlib.util.find_spec(TRACKERS[tracker]):
            package = TRACKERS[tracker].replace("_", "-")
            raise UserError(
                f"training.report_to: {tracker} is not installed here.",
                f"Do `pip install {package}` on every node that trains, or remove {tracker} from training.report_to.",
            )
