"""Launch of a training: in this process, by accelerate on this machine, or on a Ray cluster."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semtag.cluster.placement import check_training_fits, training_need
from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import live_nodes, place, ray_session
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.background import repeating
from semtag.store.process_cleanup import end_with_parent
from semtag.store.run_dir import RunDir
from semtag.training.ending import ENDED, keep_wish
from semtag.training.worker import train_worker, work
from semtag.training.worker_messages import MessageReader

# Use loopback, because the processes of one machine need no network.
ONE_MACHINE = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def launch(run: RunDir, config: Config, number: int, progress: Progress) -> None:
    """Run `train_worker` for a round with `training.launcher`, and wait for the end.

    A signal that would end this process ends the training at its next step, with a checkpoint. Raises UserError for
    that, and for a problem that the user can fix, in whichever process the problem arose.
    """
    folder = run.layout.round(number).training
    (folder / ENDED).unlink(missing_ok=True)  # of an earlier attempt
    if config.training.launcher == "local":
        with keep_wish(folder):
            train_worker(run, config, number, progress)
        return
    if config.training.parallel.startswith("zero") and find_spec("deepspeed") is None:
        raise UserError(
            f"training.parallel={config.training.parallel} needs DeepSpeed, which is not installed.",
            "Install Semtag with the extra cpu or gpu, or set training.parallel to ddp or fsdp2.",
        )
    # Show the messages of the processes while they train.
    listener = MessageReader(folder / "events.jsonl", progress)
    start = _by_accelerate if config.training.launcher == "accelerate" else _on_ray
    try:
        with repeating(listener.show, every=0.5):
            start(run, config, number, listener.file)
    except RuntimeError as error:
        raise listener.failure(str(error)) from error
    listener.show()


def _by_accelerate(run: RunDir, config: Config, number: int, events: Path) -> None:
    module = ["semtag.training.worker", str(run.path), str(number), str(events)]
    with keep_wish(events.parent):
        status = start_processes(config.training.workers, module).wait()
    if status:
        raise RuntimeError(f"A training process failed; `accelerate launch` ended with status {status}.")


def start_processes(count: int, module: list[str]) -> "subprocess.Popen[bytes]":
    """Start `python -m MODULE ...` in several processes of one machine that train together; they end with this one."""
    # --multi_gpu makes accelerate use torchrun. Without a GPU torchrun's processes train on CPUs, and --cpu would start
    # no such processes.
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", str(count), "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", "0"),
        *("-m", *module),
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    environment = {"OMP_NUM_THREADS": str(threads)} | ONE_MACHINE | os.environ
    return subprocess.Popen(command, env=environment, preexec_fn=end_with_parent)


def _on_ray(run: RunDir, config: Config, number: int, events: Path) -> None:
    if config.cluster.address == "local":
        os.environ |= {key: value for key, value in ONE_MACHINE.items() if key not in os.environ}
    with ray_session(config, actors=False, cpus=config.training.workers):
        check_training_fits(training_need(config), live_nodes(), place(config))
        _fit(run, config, number, events)


def _fit(run: RunDir, config: Config, number: int, events: Path) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    training = config.training
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"run": str(run.path.resolve()), "round": number, "events": str(events.resolve())},
        torch_config=TorchConfig(backend="nccl" if training.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.workers,
            use_gpu=training.gpus_per_worker > 0,  # one GPU per worker
            resources_per_worker={"CPU": 1},
            accelerator_type=training.accelerator_type,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(events.parent.resolve()),
            failure_config=FailureConfig(max_failures=training.restarts),
        ),
    )
    try:
        with keep_wish(events.parent):  # after Ray, which has set a handler of its own
            trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(f"Training failed on Ray: {error}") from error


def _ray_worker(told: dict[str, Any]) -> None:
    from ray.train import get_context

    if not Path(told["run"]).is_dir():
        raise FileNotFoundError(f"{told['run']} is not on this node. Set run.root to a disk that all nodes share.")
    work(told["run"], told["round"], told["events"], get_context().get_world_rank())
