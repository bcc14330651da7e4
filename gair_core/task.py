"""A task: one function with a typed request, shared by the command line, the worker and Python users.

The registry holds import paths, so that listing the tasks loads neither torch nor GDAL.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from gair_core.errors import BadInputError
from gair_core.progress import Progress


class Request(BaseModel):
    """Base of all requests: immutable, JSON-serialisable, unknown keys refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Request:
        """Build a request from decoded JSON.

        Raises:
            BadInputError: Names every key that is unknown, missing or has an impossible value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadInputError(describe_validation_error(error)) from None


class Result(BaseModel):
    """Base of all results: what a task wrote and what the user should know, JSON-serialisable."""

    model_config = ConfigDict(frozen=True)

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A registered task.

    Attributes:
        name: Name on the command line and in the worker protocol, for example ``location-map``.
        request: The request's class; its docstring and field descriptions are the help text.
        run: The function that does the work.
    """

    name: str
    request: type[Request]
    run: Callable[[Any, Progress], Result]


class Registered(NamedTuple):
    """Where a task lives and what `gair --help` says of it.

    Attributes:
        module: Import path of a module that holds a constant ``TASK``.
        summary: One line, lower case, without a full stop.
    """

    module: str
    summary: str


# In the order in which `gair --help` lists them.
TASK_MODULES: dict[str, Registered] = {
    "embed": Registered("gair_core.inference.embed", "write the NILI embedding of every pixel of a scene"),
    "segment": Registered("gair_core.inference.segment", "classify every pixel of a scene with a head"),
    "change": Registered("gair_core.inference.change", "compare two dates of one place, pixel by pixel"),
    "similarity": Registered("gair_core.inference.similarity", "map how similar a scene is to photos"),
    "sample": Registered("gair_core.inference.sample", "write the embeddings of a scene at points"),
    "predict": Registered(
        "gair_core.inference.predict", "classify photos and places, or predict their quantities, with a head"
    ),
    "locate": Registered("gair_core.inference.locate", "find where in a scene photos were taken"),
    "location-map": Registered(
        "gair_core.inference.location_map", "map how similar a photo is to places, by the location encoder"
    ),
    "train-head": Registered(
        "gair_core.finetune.train_head", "train a head for segment from labelled polygons or points"
    ),
    "download": Registered(
        "gair_core.weights.task", "fetch the weights of another project and make a model of them"
    ),
    "import": Registered("gair_core.importers.task", "turn a foreign checkpoint into one of ours"),
    "export": Registered("gair_core.export.task", "write a head as ONNX for the QGIS plugin Deepness"),
    "info": Registered("gair_core.info", "say what a checkpoint holds"),
    "models": Registered("gair_core.catalogue", "list the registered models"),
    "store-check": Registered("gair_core.pretrain.store_check", "find the faults of a pretraining store"),
    "check": Registered("gair_core.check", "show versions and devices, and test that everything works"),
}


def load_task(name: str, tasks: Mapping[str, Registered] = TASK_MODULES) -> Task:
    """Import and return the task ``name``.

    Raises:
        KeyError: There is no such task.
    """
    return cast("Task", importlib.import_module(tasks[name].module).TASK)


def describe_validation_error(error: ValidationError) -> str:
    """Turn pydantic's report into one sentence a problem: where, what was found, what was wanted."""
    problems = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "request"
        found = "" if item["type"] == "missing" else f" (found {item['input']!r})"
        problems.append(f"{where}: {item['msg']}{found}")
    return "; ".join(problems)
