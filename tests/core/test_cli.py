"""The gair command: options from requests, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import rasterio

from gair_core.cli import main
from gair_core.task import TASK_MODULES, Registered, load_task
from gair_core.version import __version__
from tests.core.inference import scenes

TOY = {"toy": Registered("tests.core.toy_task", "a toy")}


def test_help_lists_the_tasks_without_loading_torch():
    code = "import sys; from gair_core.cli import main; main(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("False")
    for name, task in TASK_MODULES.items():
        assert name in out
        assert task.summary in out


@pytest.mark.parametrize("name", TASK_MODULES)
def test_every_task_explains_every_option(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    task = load_task(name)
    assert task.name == name
    for field, info in task.request.model_fields.items():
        assert info.description, f"{name}.{field} has no description"
        # The token is for programs, which send it as JSON.
        assert (field.replace("_", "-") in text or field.upper() in text) == (field != "token")
    for noise in ("(default: None)", "(default: False)", "(default: )", "tuple[", "dict["):
        assert noise not in " ".join(text.split())


def test_a_result_is_all_that_standard_output_gets(capsys):
    assert main(["toy", "answer", "--value", "2.5"], TOY) == 0
    out, err = capsys.readouterr()
    assert "answer: 2.5" in out
    assert err == ""
    assert main(["toy", "warn", "--json", "--json-progress"], TOY) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["answer"] == 1
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"log": {"level": "warning", "message": "mind the gap"}} in lines
    assert lines[-1]["progress"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage"),
        (["paint"], 2, "invalid choice"),
        (["toy"], 2, "required"),
        (["toy", "answer", "--valeu", "3"], 2, "unrecognized"),
        (["toy", "answer", "--value", "-3"], 2, "greater than 0"),
        (["toy", "refuse"], 1, "gair: error: The value is odd.\nhint: Give another."),
        (["toy", "break"], 1, "--debug"),
    ],
)
def test_failures(words, code, message, capsys):
    assert main(words, TOY) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_result_that_found_a_fault_is_no_success(capsys):
    assert main(["toy", "find-fault"], TOY) == 1
    assert "ok: no" in capsys.readouterr().out


def test_debug_shows_the_traceback(capsys):
    assert main(["toy", "break", "--debug"], TOY) == 1
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_interrupt_cancels_and_leaves_nothing(tmp_path):
    code = (
        "import sys; from gair_core.cli import main; from gair_core.task import Registered;"
        "sys.exit(main(['toy', 'wait', '--json-progress'], {'toy': Registered('tests.core.toy_task', '')}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert process.wait(10) == 130
    assert time.monotonic() - start < 2
    process.stderr.close()


def test_embed_from_the_command_line(tmp_path, capsys):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(60, 50), "degrees")
    output = tmp_path / "out.tif"
    left, top = scenes.PLACES["degrees"][1] @ (10, 10)
    extent = f"{left},{top - 0.002},{left + 0.003},{top}"
    words = [
        "embed",
        str(scene),
        str(output),
        "--components",
        "3",
        "--extent",
        extent,
        "--extent-crs",
        "EPSG:4326",
    ]
    assert main(words) == 0
    assert "explained variance" in capsys.readouterr().out
    with rasterio.open(output) as dataset:
        assert dataset.shape == (23, 22)
        assert "EPSG:4326" in dataset.tags()["GAIR_OPTIONS"]
    assert main([*words, "--dry-run"]) == 0
    assert "1 tiles" in capsys.readouterr().out
    assert main(["embed", str(scene), str(scene)]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.qml", "out.tif", "scene.tif"]


def test_an_extent_may_begin_with_a_minus(tmp_path, capsys):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(20, 20))
    words = ["embed", str(scene), str(tmp_path / "out.tif"), "--extent", "-83.3,42.4,-83.2,42.5"]
    assert main([*words, "--extent-crs", "EPSG:4326"]) == 1
    assert "does not meet the scene" in capsys.readouterr().err
