"""`--dry-run`: what a run would do, without doing it."""

import subprocess
import sys
from pathlib import Path

from cluster.pipeline import stages_of
from cluster.run_dir import RunDir
from configs.errors import UserError
from configs.load import dump_config
from configs.schema import Config


def show_plan(run: RunDir, config: Config) -> None:
    """Print the resolved config, the texts found, the actors and GPUs, and which stages are done already."""
    run.check_same(config)
    sampling, scoring = config.sampling, config.scoring
    gpus = sampling.actors * sampling.gpus_per_actor + scoring.actors * scoring.gpus_per_actor
    base = "a small model built from the texts" if config.model.base == "demo" else config.model.base
    precision = "4-bit NF4" if config.training.four_bit else config.training.dtype
    print(dump_config(config))
    print("Plan")
    print(f"  run        {run.path}")
    print(f"  texts      {_texts_found(config)}")
    print(f"  base       {base}")
    print(f"  sampling   {sampling.samples} candidates a text, {_actors(sampling.actors, sampling.gpus_per_actor)}")
    print(f"  scoring    {scoring.model}, {_actors(scoring.actors, scoring.gpus_per_actor)}")
    print(f"  Ray        {config.cluster.address}, {gpus:g} GPUs in all while ranking")
    print(f"  training   {config.training.loss}, beta {config.training.beta:g}: the first loss must be "
          f"{(1 / (2 * config.training.beta)) ** 2:g}; LoRA rank {config.training.lora.rank}, {precision}")  # fmt: skip
    for stage in stages_of(config):
        print(f"  {stage:<10} {'done, would be skipped' if run.is_done(stage) else 'to do'}")


def check_model(config: Config) -> None:
    """Raises UserError when model.base is plainly a path and nothing is there. Hub names are not looked up."""
    base = config.model.base
    path = Path(base)
    is_hub_name = not base.startswith((".", "/", "~")) and base.count("/") <= 1
    if base == "demo" or (is_hub_name and not path.exists()):
        return
    if not (path / "config.json").is_file():
        problem = "has no config.json" if path.exists() else "does not exist"
        raise UserError(f"The model path {base} {problem}.", "Check model.base; a relative path starts here.")


def _actors(count: int, gpus: float) -> str:
    return f"{count} actor{'s' * (count > 1)} with {f'{gpus:g} GPU' if gpus else 'no GPU'} each"


def _texts_found(config: Config) -> str:
    # Reading texts is generation's work, and this folder must not import it: so a process, as for every stage.
    command = [sys.executable, "-m", "generation.preview"]
    found = subprocess.run(command, input=dump_config(config), capture_output=True, text=True, check=False)
    if found.returncode:
        raise UserError((found.stdout + found.stderr).strip().removeprefix("error: "))
    return found.stdout.strip()
