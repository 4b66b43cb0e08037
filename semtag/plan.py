"""`--dry-run`: what a run would do, without doing it."""

import importlib.util
from pathlib import Path

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

# The trackers of curves that transformers knows, and the module that each of them needs.
TRACKERS = {
    "azure_ml": "azureml", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "kubeflow": "transformers", "mlflow": "mlflow",
    "neptune": "neptune", "swanlab": "swanlab", "tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb",
}  # fmt: skip


def show_plan(run: RunDir, config: Config) -> None:
    """Print the resolved config, the texts found, which stages are done already, and where the actors go.

    Raises UserError when the base model, if it lies in a folder, lacks what the config asks of it, and when the cluster
    that is named cannot hold the actors. For this machine that is said and no error: plans for a larger one are made on
    a small one.
    """
    from semtag.generation.preflight import check_base
    from semtag.generation.texts import preview

    # Only what lies here already: a plan fetches and converts nothing.
    if Path(config.model.base).exists() and not is_packaged(config.model.base):
        check_base(config.model.base, config)
    print(dump_config(config))
    plan = {
        "run": run.path,
        "texts": preview(config.data),
        "base": base_of(config),
        "sampling": f"{config.sampling.samples} candidates a text",
        "scoring": config.scoring.model,
    }
    for number in range(1, config.rounds.count + 1):
        plan[f"round {number}"] = _training_plan(config.of_round(number).training)
    if config.training.launcher != "local":
        launcher, workers = config.training.launcher, config.training.workers
        plan["launcher"] = f"{launcher}: {workers} processes, {config.training.parallel}"
    steps = {step.name: "done, would be skipped" if run.is_done(step) else "to do" for step in steps_of(run, config)}
    print("Plan")
    for name, what in [*plan.items(), *steps.items()]:
        print(f"  {name:<10} {what}")
    _show_placement(config)


def _training_plan(training: Training) -> str:
    first = f": the first loss must be {training.first_loss:g}" if training.first_loss else ""
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
        print(f"  would not start here: {error.what}")


def check_model(config: Config) -> None:
    """Raises UserError for a packaged model without its package, and for what is plainly a path with nothing there.

    Hub names are not looked up.
    """
    base = config.model.base
    if is_hub_name(base):
        return
    if config.model.revision:
        raise UserError(
            f"model.revision={config.model.revision}: {base} is on no hub, where a model has revisions.",
            "Set model.revision to null, or model.base to a name on a hub.",
        )
    if is_packaged(base):
        source_files(base)
        return
    path = place_at(base)
    if not (path / "config.json").is_file():
        problem = "has no config.json" if path.exists() else "does not exist"
        raise UserError(f"The model path {base} {problem}.", "Check model.base; a relative path starts here.")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"The model path {base} holds no weights in safetensors, and no others are loaded: they may run code.",
            "Save the model as safetensors with transformers, or take another model.base.",
        )


def check_trackers(config: Config) -> None:
    """Raises UserError for a tracker of training.report_to that transformers does not know or that is not installed."""
    rounds = [config.of_round(number).training for number in range(1, config.rounds.count + 1)]
    for tracker in dict.fromkeys(name for training in rounds for name in training.report_to):
        if tracker not in TRACKERS:
            raise UserError(
                f"training.report_to: {tracker!r} is no tracker.", f"Known ones: {', '.join(sorted(TRACKERS))}."
            )
        if not importlib.util.find_spec(TRACKERS[tracker]):
            package = TRACKERS[tracker].replace("_", "-")
            raise UserError(
                f"training.report_to: {tracker} is not installed here.",
                f"Do `pip install {package}`, on every node that trains, or leave {tracker} out.",
            )
