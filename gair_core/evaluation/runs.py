"""Fine-tuning runs on disk, as `gair_core.finetune.trainer` leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gair_core.errors import BadInputError
from gair_core.yaml_config import read_values

CONFIG, TEST, RECORDS = "config.yaml", "test.json", "test_records.csv"


@dataclass(frozen=True)
class FinishedRun:
    """A run with results on a test split.

    Attributes:
        folder: Its folder.
        config: The values of its ``config.yaml``.
        test: Its ``test.json``.
    """

    folder: Path
    config: Mapping[str, Any]
    test: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The pretrained model as its configuration names it."""
        return str(self.config.get("model", ""))


@dataclass(frozen=True)
class UnfinishedRun:
    """A run without results, as it was stopped or goes on.

    Attributes:
        folder: Its folder.
        config: The values of its ``config.yaml``.
    """

    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class FoundRuns:
    """What lies in folders of runs.

    Attributes:
        finished: Fine-tuning runs with results, by path.
        unfinished: Those without.
        others: Folders of all other runs: pretraining.
    """

    finished: tuple[FinishedRun, ...]
    unfinished: tuple[UnfinishedRun, ...]
    others: tuple[Path, ...]


def find_runs(folders: Sequence[Path]) -> FoundRuns:
    """Find all runs in folders and their subfolders.

    Raises:
        BadInputError: A folder is missing, or a file of a run cannot be read.
    """
    finished: dict[Path, FinishedRun] = {}
    unfinished: dict[Path, UnfinishedRun] = {}
    others: dict[Path, Path] = {}
    for root in folders:
        if not root.is_dir():
            raise BadInputError(f"There is no folder {root}.", "Name the folder of the runs: --runs FOLDER.")
        for path in sorted(root.rglob(CONFIG)):
            folder, config = path.parent, read_values(path)
            # The same run may be reached by two of the folders.
            key = folder.resolve()
            if "task" not in config:
                others[key] = folder
            elif (folder / TEST).is_file():
                finished[key] = read_run(folder)
            else:
                unfinished[key] = UnfinishedRun(folder, config)
    return FoundRuns(tuple(finished.values()), tuple(unfinished.values()), tuple(others.values()))


def read_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        BadInputError: The folder holds none, or its files cannot be read.
    """
    path = folder / TEST
    try:
        test = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"{folder} holds no {TEST}.",
            "Finish it: python training/finetune.py CONFIG.yaml --resume, without test=false.",
        ) from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(test, dict) or not isinstance(test.get("metrics"), dict):
        raise BadInputError(
            f"{path} holds no metrics.", "It must be the file that training/finetune.py wrote."
        )
    return FinishedRun(folder, read_values(folder / CONFIG), test)
