"""Nodes that do not see the run's folder are named before any work is sent to them."""

from pathlib import Path

import pytest

from semtag.cluster.shared_disk import check_seen, sees
from semtag.configs.errors import UserError


def test_a_node_that_does_not_see_the_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "sign").touch()
    here, elsewhere = sees(str(tmp_path / "sign")), sees("/a/disk/of/another/machine/sign")
    assert (here, elsewhere) == (True, False)
    check_seen({"10.0.0.1": here, "10.0.0.2": here}, tmp_path)
    with pytest.raises(UserError, match=r"The nodes 10\.0\.0\.2, 10\.0\.0\.3 do not see"):
        check_seen({"10.0.0.3": elsewhere, "10.0.0.1": here, "10.0.0.2": elsewhere}, tmp_path)
