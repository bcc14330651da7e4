"""The conversation of docs/worker_protocol.md, played against a real worker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.docs.inputs import Library
from tests.docs.pages import PAGES

ANYTHING = "…"
COMMAND = [sys.executable, "-I", "-X", "utf8", "-u", "-m", "gair_core.worker"]


def conversation() -> list[tuple[str, str]]:
    """The lines with who says them, ``>`` the caller and ``<`` the worker."""
    text = PAGES["docs/worker_protocol.md"].read_text("utf-8")
    (block,) = re.findall(r"```text\n(< .*?)```", text, re.DOTALL)
    return [(line[0], line[2:]) for line in block.splitlines()]


def fits(found: Any, said: Any) -> bool:
    if said == ANYTHING:
        return True
    if isinstance(said, dict) and isinstance(found, dict):
        return said.keys() == found.keys() and all(fits(found[key], said[key]) for key in said)
    return bool(found == said)


def test_the_conversation(tmp_path: Path) -> None:
    Library(tmp_path / "library").lay("scene.tif", tmp_path)
    lines = conversation()
    said = [json.loads(line) for who, line in lines if who == "<"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen(COMMAND, cwd=tmp_path, **pipes, text=True)
    limit = threading.Timer(300, worker.kill)
    limit.daemon = True  # pytest would wait for it when it ends
    limit.start()
    heard: dict[object, list[dict[str, Any]]] = defaultdict(list)
    waiting: list[object] = ["ready"]

    def hear() -> None:
        """Listen until everything that was asked has its last line."""
        while waiting:
            answer = json.loads(worker.stdout.readline())
            key = "ready" if "ready" in answer else answer["id"]
            heard[key].append(answer)
            if key in waiting and not {"progress", "log"} & answer.keys():
                waiting.remove(key)

    for position, (who, line) in enumerate(lines):
        if who == "<":
            hear()
            continue
        assert not waiting or lines[position - 1][0] == ">"
        print(line, file=worker.stdin, flush=True)
        sent = json.loads(line)
        if not isinstance(sent, dict) or "cancel" not in sent:
            waiting.append(sent["id"] if isinstance(sent, dict) else None)
    hear()
    worker.stdin.close()
    assert worker.wait(10) == 0
    limit.cancel()
    for answer in said:
        key = "ready" if "ready" in answer else answer["id"]
        assert any(fits(one, answer) for one in heard[key]), (answer, heard[key])
    # Progress and the log apart, the worker said nothing else.
    spoken = [one for answers in heard.values() for one in answers if not {"progress", "log"} & one.keys()]
    assert len(spoken) == len([answer for answer in said if "progress" not in answer])
    assert (tmp_path / "embeddings.tif").is_file()
    assert not (tmp_path / "all.tif").exists()
