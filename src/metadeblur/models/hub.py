"""Folders from and to the hub of models (huggingface.co), where the package huggingface_hub is installed.

Nothing else in this program talks to it, and nothing is fetched unless a caller names a repository.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.system.extras import how_to_install

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_repository(source: str) -> bool:
    """Whether a text may be the name of a repository, OWNER/NAME.

    >>> is_repository("someone/deblurrer"), is_repository("./folder/with/weights"), is_repository("../mine")
    (True, False, False)
    """
    owner = source.partition("/")[0]
    return _REPOSITORY.fullmatch(source) is not None and owner.strip(".") != ""


def fetch(repository: str, files: Sequence[str], **options: Any) -> Path:
    """The folder that some files of a repository were fetched into.

    Args:
        repository: its name, OWNER/NAME.
        files: names of files; those that are not there are left out.
        **options: of ``huggingface_hub.snapshot_download``, such as revision, token or cache_dir.

    Raises:
        MetadeblurError: huggingface_hub is not installed, or the repository cannot be had.
    """
    hub = _library(f"{repository} is no folder here, and")
    try:
        return Path(hub.snapshot_download(repo_id=repository, allow_patterns=list(files), **options))
    except Exception as error:  # of the network, the hub, or the disk
        raise MetadeblurError(f"{repository}: could not be fetched from the hub: {_reason(error)}") from error


def publish(folder: Path, repository: str, files: Sequence[str], *, private: bool, token: str | None) -> None:
    """Upload some files of a folder to a repository, which is made where it is missing.

    Raises:
        MetadeblurError: huggingface_hub is not installed, or the hub refuses.
    """
    hub = _library(f"to upload to {repository},")
    try:
        api = hub.HfApi(token=token)
        api.create_repo(repo_id=repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(files),
            commit_message="Saved by metadeblur",
        )
    except Exception as error:
        raise MetadeblurError(f"{repository}: could not be uploaded to the hub: {_reason(error)}") from error


def need_library(repository: str) -> None:
    """See that a repository can be uploaded to, before anything is written.

    Raises:
        MetadeblurError: it is no name of a repository, or huggingface_hub is not installed.
    """
    if not is_repository(repository):
        raise MetadeblurError(f"repo_id is {repository!r}; give the name of a repository on the hub, as OWNER/NAME")
    _library(f"to upload to {repository},")


def _library(why: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MetadeblurError(
            f"{why} the hub needs the package huggingface_hub, which is not installed: {how_to_install('hub')}"
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
