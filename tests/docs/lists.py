"""What stands for a reader's own files, and which commands of the guide are not run as they stand."""

from __future__ import annotations

# What stands for the reader's own files.
PLACEHOLDERS = {
    "SCENE": "scene.tif",
    "PHOTOS": "photos.gpkg",
    "POINTS": "points.gpkg",
    "PHOTO": "photo.jpg",
    "BEFORE": "before.tif",
    "AFTER": "after.tif",
    "POLYGONS": "labels.gpkg",
    "HEAD": "probe.safetensors",
    "TASK": "embed",
    "FILE": "gair.safetensors",
    # Photos of several cities and their scenes, small ones.
    "photos.csv scenes/*.SAFE": "cities/photos.csv cities/*.tif",
}

# Names that a page's snippets take for granted.
BEFORE_SNIPPETS = {
    "README.md": """
import torch
side = __import__("gair_core").load("demo").config.street_view.image_size
images, photos = torch.rand(1, 10, 64, 64), torch.rand(1, 3, side, side)
uv, lonlat = torch.rand(1, 5, 2), torch.tensor([[11.5, 48.1]])
""",
}

_WHOLE = "it sets up environments, or runs everything; that the target exists is tested"
_CHECKOUT = "checks or changes the checkout itself; that the target exists is tested"
_ROOT = "needs an administrator"
_WINDOW = "opens QGIS's window"
_DOWNLOAD = "needs the network; tests/core/weights and tests/core/test_check_retrieval.py do it without"
_GPU = "needs a GPU"

NOT_RUN = {
    "make test": _WHOLE,
    "make demo": _WHOLE,
    "make demo SCENE=scene.tif PHOTOS=photos.csv": _WHOLE,
    "python training/evaluate.py demo --store stores/world_tiny": (
        "needs the whole store; tests/core/evaluation/test_demo.py measures on a small one"
    ),
    """echo '{"inputs": {"INPUT": "scene.tif", "OUTPUT": "classes.tif"}}' | """
    "qgis_process run gair:segment -": "needs QGIS 3.24; tests/plugin/test_qgis_process.py does it there",
    "make check": _CHECKOUT,
    "make format": _CHECKOUT,
    "make lock": _CHECKOUT,
    "make docs": "tests/docs/test_pages.py builds the guide",
    "make plugin": "tests/plugin/test_package.py builds the plugin",
    "make screenshots": _WINDOW,
    "make setup": _WHOLE,
    "make setup PYTHON=python3.12": _WHOLE,
    "sudo apt install python3-venv": _ROOT,
    "gair download gair --accept-licence": _DOWNLOAD,
    ".venv/bin/gair download gair --accept-licence": _DOWNLOAD,
    "gair download gair --file checkpoint.pth --accept-licence": _DOWNLOAD,
    "gair check --retrieval examples/rs_to_sv_retrieval --model gair": _DOWNLOAD,
    'GAIR_PYTHON="$PWD/.venv/bin/python" qgis': _WINDOW,
    "python -m pip install --editable '.[train]'": "would change the environment that runs the tests",
    "python benchmarks/pretrain_throughput.py --preset base --batch-size 256 --device cuda": _GPU,
    "python benchmarks/pretrain_throughput.py --preset base --batch-size 256 --device cuda --compile": _GPU,
    "python benchmarks/table_7.py --device cuda --precision bfloat16 --batch-sizes 1 64 "
    "--json table_7_gpu.json": _GPU,
    "py -3.12 -m venv .venv": "needs Windows",
    r".venv\Scripts\python -m pip install --constraint requirements.lock --editable .": "needs Windows",
    r".venv\Scripts\gair check": "needs Windows",
    r".venv\Scripts\python -m pip install --constraint requirements.lock torch torchvision "
    "--index-url https://download.pytorch.org/whl/cu132": "needs Windows",
}

# Needs the developers' data folder.
NEEDS_DATA = {"python training/evaluate.py demo --only-real --real FOLDER"}

_WORLD = "--cities 8 --validation 2 --test 2 --photos 12 --size 96 --photo-size 48 --processes 1"
_PRETRAIN = (
    "model.preset=tiny steps=4 precision=32-true accelerator=cpu sampling.batch_size=4 data.workers=0 "
    "objective.bank_capacity=8 save_every=2 basis_components=4 basis_samples=8 "
    "model.remote_sensing.tile_size=64 evaluation.every=0 evaluation.gallery=2 evaluation.galleries=1 "
    "evaluation.localized=2"
)
_RETRIEVAL = "--gallery 2 --per-city 1 --galleries 2 --localized 2"
_FINETUNE = "epochs=1 batch_size=4 workers=0 accelerator=cpu"

# Commands that would take minutes or hours get less to do: what is appended.
SMALLER: dict[str, str] = {
    "training/build_world.py": _WORLD,
    "training/build_dataset.py": "--validation 0.25 --test 0.25",
    "training/demo.py": "--quick --processes 1",
    "training/pretrain.py": _PRETRAIN,
    "training/evaluate.py retrieval": _RETRIEVAL,
    "training/finetune.py": _FINETUNE,
    "benchmarks/world.py": "--photos 2 --size 32 --scene 64 --processes 1",
    "benchmarks/table_7.py": "--presets tiny --batch-sizes 1 --rounds 1",
    "benchmarks/memory.py": "--width 512 --rows 1024 512",
    "benchmarks/pretrain_throughput.py": "--preset tiny --batch-size 2 --steps 1 --warmup 1 --device cpu",
    "benchmarks/ablation.py": "--quick --rows gair mae --seeds 1",
}
