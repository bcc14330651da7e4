"""Tasks with known behaviour, for the tests of the worker and the command line."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from gair_core.errors import BadInputError
from gair_core.progress import Progress
from gair_core.task import Request, Result, Task


class ToyRequest(Request):
    """Do as told."""

    action: CliPositionalArg[str] = Field(description="what to do")
    value: float = Field(1.0, gt=0, description="a number")
    folder: Path | None = Field(None, description="where to leave a mark")


class ToyResult(Result):
    answer: float | None
    ok: bool = True
    text_with_letters: str = "Straße 東京"


def toy(request: ToyRequest, progress: Progress) -> ToyResult:
    if request.action == "wait":
        for step in range(200):
            progress.raise_if_cancelled()
            progress.report(step / 200, "waiting")
            time.sleep(0.05)
    elif request.action == "stubborn":
        progress.report(0.1, "deaf")
        time.sleep(60)
    elif request.action == "shout":
        os.write(1, b"python noise\n")
        libc = ctypes.CDLL(None)
        libc.puts(b"C noise")
        libc.fflush(None)
        print("print noise", flush=True)
    elif request.action == "refuse":
        raise BadInputError("The value is odd.", "Give another.")
    elif request.action == "exhaust":
        np.empty(2**62, np.uint8)
    elif request.action == "break":
        raise KeyError("fault")
    elif request.action == "warn":
        progress.log("warning", "mind the gap")
    progress.report(1.0)
    answer = float("nan") if request.action == "nan" else request.value
    return ToyResult(answer=answer, ok=request.action != "find-fault")


TASK = Task("toy", ToyRequest, toy)
