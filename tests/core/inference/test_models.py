"""Which model a task gets, and what the user hears of it."""

from __future__ import annotations

import gair_core
from gair_core.head_checkpoint import load_head
from gair_core.inference.models import load_model
from gair_core.progress import Progress


class Log(Progress):
    def __init__(self):
        super().__init__()
        self.lines = []

    def log(self, level, message):
        super().log(level, message)
        self.lines.append((level, message))


def test_every_run_of_the_untrained_model_says_so():
    progress = Log()
    for _ in range(2):
        load_model("demo", progress)
    assert [level for level, _ in progress.lines] == ["info", "info"]
    assert all("demo is untrained" in message for _, message in progress.lines)


def test_the_untrained_head_says_so_too():
    progress = Log()
    load_head("demo", load_model=lambda name: load_model(name, progress))
    assert "untrained" in progress.lines[0][1]


def test_a_file_is_kept_until_it_changes_and_says_nothing(tmp_path):
    path, progress = tmp_path / "model.safetensors", Log()
    model = load_model("demo")
    gair_core.save(model, path)
    kept = load_model(str(path), progress)
    assert load_model(str(path), progress) is kept
    path.unlink()
    gair_core.save(model, path)
    assert load_model(str(path), progress) is not kept
    assert progress.lines == []
