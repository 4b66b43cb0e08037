"""The wheel: one package, which works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_the_wheel_is_one_package_that_works_from_any_folder(tmp_path: Path) -> None:
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(site)
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"semtag"}
    plan = [sys.executable, "-m", "semtag", "run", "demo", "--dry-run", f"run.root={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(plan, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"510 distinct texts in 510 rows of {site}/semtag/configs/demo/texts.jsonl" in done.stdout
