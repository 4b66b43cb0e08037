"""`semtag submit`: a run, or one stage of it, as a job of a Ray cluster; a thin wrapper of Ray's job API."""

import asyncio
import logging
import os
import shlex
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semtag.configs.errors import UserError
from semtag.configs.load import is_shipped, load_config
from semtag.store.locations import in_store

# Never sent, at any depth and whether .gitignore names them or not: what is of no use to a job, and what may be secret.
EXCLUDES = [
    *("/.git", "/.venv", "/venv", "/env", "/runs", "__pycache__", "node_modules"),
    *(".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*", "id_ed25519*"),
    *("auth_token", "token", "credentials*", ".netrc", ".aws", ".kube", ".ssh"),
]
TOKEN = "Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it."


def submit(
    config: str, overrides: list[str], stage: str = "run", address: str = "", working_dir: str = ".", wait: bool = True
) -> int:
    """Send `semtag STAGE CONFIG` with the working directory to the cluster and follow its log.

    Returns 0 when the job succeeded (or was sent, without `wait`), 1 when it did not, 130 after Ctrl-C.
    Raises UserError for a config that does not hold, before anything is sent, and for a cluster that refuses.
    """
    command = entrypoint(config, overrides, stage, Path(working_dir))
    client = _connect(address)
    say_what_is_sent(Path(working_dir), address)
    job = _send(client, command, working_dir, address)
    print(f"Job {job} is sent to {address}: {command}", flush=True)
    if not wait:
        print(_how_to_go_on(job, address))
        return 0
    try:
        status = asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        print(f"\nNo longer following. Job {job} goes on.\n{_how_to_go_on(job, address)}")
        return 130
    except Exception as error:
        # Whatever broke the connection, the job does not depend on it.
        raise UserError(f"Lost sight of job {job}, which goes on: {error}", _how_to_go_on(job, address)) from None
    print(f"Job {job}: {status}")
    return 0 if status == "SUCCEEDED" else 1


def entrypoint(config: str, overrides: list[str], stage: str, working_dir: Path) -> str:
    """The job's command line, run in the working directory's copy on the cluster.

    Raises UserError for a config that does not hold, or one that the job would not find, or a run it would lose.
    """
    address = "cluster.address=auto"
    resolved = load_config(config, [address, *overrides])
    if not working_dir.is_dir():
        raise UserError(f"The working directory {working_dir} does not exist.", "Check --working-dir.")
    name = config if is_shipped(config) else _name_in_job(config, working_dir.resolve())
    if not in_store(resolved.run.root) and not Path(resolved.run.root).is_absolute():
        raise UserError(
            f"run.root={resolved.run.root} would be lost: the job runs in a copy that Ray deletes.",
            "Give run.root a place in a store (s3://...), or an absolute path that the head and all nodes share.",
        )
    return shlex.join(["python", "-m", "semtag", stage, name, address, *overrides])


def _name_in_job(config: str, root: Path) -> str:
    """The path of a config from the job's working directory, a copy of `root`."""
    path = Path(config).resolve()
    if not path.is_relative_to(root) or path.relative_to(root).as_posix() not in sent(root):
        raise UserError(
            f"The config {config} would not be sent: the job gets {root} without what .gitignore names, runs, .git, "
            "virtual environments, and files that may hold secrets.",
            "Put the config there, or name the folder above it with --working-dir.",
        )
    return path.relative_to(root).as_posix()


def sent(working_dir: Path) -> dict[str, int]:
    """The files of the working directory that a job gets, with their bytes, as Ray itself packs them."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, "package.zip")
        heeds_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
        quiet = logging.getLogger(__name__)
        create_package(str(working_dir.resolve()), package, heeds_gitignore, excludes=list(EXCLUDES), logger=quiet)
        with zipfile.ZipFile(package) as files:
            return {file.filename: file.file_size for file in files.infolist() if not file.is_dir()}


def say_what_is_sent(working_dir: Path, address: str) -> None:
    """Print how much goes to the cluster, by the names of the working directory, and whether others could read it."""
    files = sent(working_dir)
    names = sorted({name.split("/")[0] for name in files})
    size = sum(files.values()) / 2**20
    print(f"Sends {len(files)} files, {size:.1f} MiB, of {working_dir.resolve()}: {', '.join(names)}", flush=True)
    host = urlsplit(address).hostname or ""
    if address.startswith("http://") and host != "localhost" and not host.startswith(("127.", "::1")):
        print(f"warning: {address} is not encrypted: others on the way can read files and token", file=sys.stderr)


def _connect(address: str) -> Any:
    """Ray's client; the token comes from the environment, as for Ray's own commands."""
    if not address.startswith(("http://", "https://")) or "@" in address:
        raise UserError(
            f"{address} is not the address of a Ray dashboard.", "Write it as http://HOST:PORT; the port is 8265."
        )
    os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""  # EXCLUDES names them, without a warning for each
    logging.disable(logging.INFO)  # Ray names every .gitignore it meets
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)  # Ray would take these over the address it is given
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise _refused(address, error) from None
    except (ConnectionError, RuntimeError, ValueError, requests.exceptions.RequestException) as error:
        raise UserError(
            f"No Ray cluster answers at {address}: {error}",
            "Check --address; for a cluster elsewhere, forward its dashboard's port to this machine.",
        ) from None


def _send(client: Any, command: str, working_dir: str, address: str) -> str:
    from ray.exceptions import AuthenticationError

    try:
        return str(
            client.submit_job(
                entrypoint=command,
                runtime_env={"working_dir": str(Path(working_dir).resolve()), "excludes": EXCLUDES},
            )
        )
    except AuthenticationError as error:
        raise _refused(address, error) from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"The cluster at {address} did not take the job: {error}") from None


def _refused(address: str, error: Exception) -> UserError:
    wrong = "Forbidden" in str(error)
    what = "refused the token: it is not the cluster's" if wrong else "asks for a token, and none was given"
    return UserError(f"The cluster at {address} {what}.", TOKEN)


async def _follow(client: Any, job: str) -> str:
    """Print the job's log as it grows; returns the job's last status."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
    while not (status := client.get_job_status(job)).is_terminal():  # the log ends a moment before the job does
        await asyncio.sleep(0.5)
    return str(status.value)


def _how_to_go_on(job: str, address: str) -> str:
    at = f"--address {address} {job}"
    return f"Follow it with `ray job logs --follow {at}`, stop it with `ray job stop {at}`."
