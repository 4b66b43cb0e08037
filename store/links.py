"""The taking of finished folders into another run: by links where a disk can link files, else by copies."""

import os
import shutil
from pathlib import Path

from semtag.configs.errors import UserError
from semtag.store.locations import Place, make_folder, put_in_place, remove


def take_folder(source: Place, target: Place) -> None:
    """Give `target` the files of the folder `source`, in place of an older folder. The files take no room twice.

    A link is safe, because Semtag replaces files and never changes one, so each run may be deleted without harm to the
    other. Stores, and disks that cannot link, copy. Raises UserError for a disk and a store, or stores of two kinds.
    """
    if isinstance(source, Path) and isinstance(target, Path):
        partial = target.with_name(f".{target.name}.partial")
        remove(partial)
        make_folder(target.parent)
        shutil.copytree(source, partial, copy_function=_link)
        put_in_place(partial, target)
    elif not isinstance(source, Path) and not isinstance(target, Path) and source.protocol == target.protocol:
        remove(target)
        for file in source.fs.find(source.path):
            source.fs.cp_file(file, f"{target.path.rstrip('/')}/{file.removeprefix(source.path).lstrip('/')}")
    else:
        raise UserError(
            f"{target} cannot take files from {source}.", "Set run.root to a place of the same kind as the source."
        )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
