"""`semtag submit`: a run, or one stage of a run, as a job of a Ray cluster, by Ray's job API."""

import asyncio
import logging
import os
import shlex
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from semtag.configs.errors import UserError
from semtag.configs.fields import is_readable_by_others
from semtag.configs.load import is_shipped, load_config
from semtag.store.locations import in_store

# Files that are never sent, whatever .gitignore says: files without use to a job, and files that may hold secrets.
# A pattern that begins with a slash holds at the top alone, any other pattern at each depth.
EXCLUDES = [
    *("/.git", "/.venv", "/venv", "/env", "/runs", "__pycache__", "node_modules"),
    *(".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*", "id_ed25519*"),
    *("auth_token", "token", "credentials*", ".netrc", ".aws", ".kube", ".ssh"),
]
TOKEN = "Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds the token."


def submit(
    config: str, overrides: list[str], stage: str = "run", address: str = "", working_dir: str = ".", wait: bool = True
) -> int:
    """Send `semtag STAGE CONFIG` with the working directory to the cluster, and follow the job's log.

    Returns 0 when the job succeeded, 1 when the job failed, 130 after Ctrl-C. Without `wait`, returns 0 once the job is
    sent. Raises UserError for an invalid config before anything is sent, and for a cluster that refuses the job.
    """
    # Check all that can be checked here, then send.
    command = entrypoint(config, overrides, stage, Path(working_dir))
    client = _connect(address)
    say_what_is_sent(Path(working_dir), address)
    job = _send(client, command, working_dir, address)
    print(f"Job {job} is sent to {address}: {command}", flush=True)
    if not wait:
        print(_how_to_go_on(job, address))
        return 0
    # Follow the job's log to the end.
    try:
        status = asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        print(f"\nNo longer following. Job {job} still runs.\n{_how_to_go_on(job, address)}")
        return 130
    except Exception as error:
        # Any error means a broken connection, and the job does not depend on the connection.
        problem = f"Lost the connection to job {job}, which still runs: {error}"
        raise UserError(problem, _how_to_go_on(job, address)) from None
    print(f"Job {job}: {status}")
    return 0 if status == "SUCCEEDED" else 1


def entrypoint(config: str, overrides: list[str], stage: str, working_dir: Path) -> str:
    """Return the job's command line, which runs in the cluster's copy of the working directory.

    Raises UserError for an invalid config, a config that is not sent, and a run.root that Ray would delete.
    """
    address = "cluster.address=auto"
    resolved = load_config(config, [address, *overrides])
    if not working_dir.is_dir():
        raise UserError(f"The working directory {working_dir} does not exist.", "Check --working-dir.")
    name = config if is_shipped(config) else _name_in_job(config, working_dir.resolve())
    if not in_store(resolved.run.root) and not Path(resolved.run.root).is_absolute():
        raise UserError(
            f"run.root={resolved.run.root} would be lost, because Ray deletes the job's copy of the working directory.",
            "Set run.root to a location in an object store (s3://...), or to an absolute path that all nodes share.",
        )
    return shlex.join(["python", "-m", "semtag", stage, name, address, *overrides])


def _name_in_job(config: str, root: Path) -> str:
    """Return the path of a config from `root`, the working directory. Raises UserError for a file that is not sent."""
    path = Path(config).resolve()
    if not path.is_relative_to(root) or path.relative_to(root).as_posix() not in sent(root):
        raise UserError(
            f"The config {config} would not be sent. The job gets {root} without files that .gitignore names, runs, "
            ".git, virtual environments, and files that may hold secrets.",
            "Move the config to a folder that is sent, or set --working-dir to a folder above the config.",
        )
    return path.relative_to(root).as_posix()


def sent(working_dir: Path) -> dict[str, int]:
    """Return the files of the working directory that a job gets, as Ray itself packs them: path -> bytes."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, "package.zip")
        heeds_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
        quiet = logging.getLogger(__name__)
        create_package(str(working_dir.resolve()), package, heeds_gitignore, excludes=list(EXCLUDES), logger=quiet)
        with zipfile.ZipFile(package) as files:
            return {file.filename: file.file_size for file in files.infolist() if not file.is_dir()}


def say_what_is_sent(working_dir: Path, address: str) -> None:
    """Print the number, the size and the top names of the files to send, and warn of an unencrypted connection."""
    files = sent(working_dir)
    names = sorted({name.split("/")[0] for name in files})
    size = sum(files.values()) / 2**20
    print(f"Sends {len(files)} files, {size:.1f} MiB, of {working_dir.resolve()}: {', '.join(names)}", flush=True)
    if is_readable_by_others(address):
        print(f"warning: {address} is not encrypted: others on the network can read files and token", file=sys.stderr)


def _connect(address: str) -> Any:
    """Return Ray's client. As for Ray's own commands, the token comes from the environment.

    Raises UserError for a malformed address, a cluster that does not answer, and a cluster that refuses the token.
    """
    if not address.startswith(("http://", "https://")) or "@" in address:
        raise UserError(
            f"{address} is not the address of a Ray dashboard.", "Set --address to http://HOST:PORT (the port is 8265)."
        )
    # Set Ray's environment before Ray is imported.
    os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""  # EXCLUDES has Ray's defaults, of which Ray warns
    logging.disable(logging.INFO)  # Ray logs every .gitignore that it reads
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)  # Ray would prefer these to the given address
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
            "Check --address. For a cluster in another network, forward the dashboard's port to this machine.",
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
        raise UserError(f"The cluster at {address} refused the job: {error}") from None


def _refused(address: str, error: Exception) -> UserError:
    wrong = "Forbidden" in str(error)
    what = "refused the token: it is not the cluster's token" if wrong else "asks for a token, and none was given"
    return UserError(f"The cluster at {address} {what}.", TOKEN)


async def _follow(client: Any, job: str) -> str:
    """Print the job's log as the log grows; return the job's last status."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
    while not (status := client.get_job_status(job)).is_terminal():  # the log ends a moment before the job does
        await asyncio.sleep(0.5)
    return str(status.value)


def _how_to_go_on(job: str, address: str) -> str:
    at = f"--address {address} {job}"
    return f"Follow the job with `ray job logs --follow {at}`, or stop the job with `ray job stop {at}`."
