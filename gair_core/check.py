"""The task ``check``: what is installed, what it can run on, and whether it works.

The self-test runs on generated data in a temporary folder. It meets what breaks in practice: libraries of
different origin in one process, a PROJ without its database, a GPU whose results differ, a full disk.
"""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from rasterio.transform import from_origin
from torch import Tensor

from gair_core.catalogue import CatalogueEntry, ModelsRequest, list_catalogue
from gair_core.config import RemoteSensingConfig
from gair_core.errors import GairError
from gair_core.geo.footprint import Footprint
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.inference.engine import select_device
from gair_core.inference.models import load_model
from gair_core.model.gair import GAIR
from gair_core.model.nili import NILI
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.progress import Progress
from gair_core.retrieval import RetrievalCheck, check_retrieval
from gair_core.sentinel2.bands import normalize
from gair_core.task import Request, Result, Task
from gair_core.version import __version__

_PACKAGES = ("torch", "timm", "numpy", "rasterio", "pyproj", "geopandas", "pyogrio", "pillow", "pydantic")
# Patches of the generated scene, rows and columns: not square, so that a swap of axes shows.
_PATCHES = (6, 5)
# bf16 keeps 8 bits, of which the blocks of an encoder lose a few more.
_TOLERANCE = {"cpu": 1e-4, "mps": 1e-2, "cuda": 0.1}


class CheckRequest(Request):
    """Show versions, devices and models, and run a self-test of some seconds on generated data.

    With --retrieval the model must find photos by scenes too, as the authors show it of their weights:
    whether these were imported right.
    """

    model: str = Field("demo", description="the model to test: a checkpoint or a registered name")
    device: str = Field("auto", description="cpu, cuda, mps or auto")
    retrieval: Path | None = Field(
        None,
        description="folder of known pairs: photos.csv with id, photo, scene, lon, lat (docs/weights.md)",
    )


class Device(BaseModel):
    """Something to compute on.

    Attributes:
        name: What to give to ``--device``.
        description: Its kind and size.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    description: str


class SelfTest(BaseModel):
    """The outcome of one test.

    Attributes:
        name: What was tested.
        outcome: ``pass``, ``fail``, or ``skip`` where the model has no such part.
        detail: What was measured, or the error with its way out.
        seconds: How long it took.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    outcome: str
    detail: str
    seconds: float


class CheckResult(Result):
    """What `check` found.

    Attributes:
        ok: Whether no test failed and retrieval, if it was asked for, is not wrong.
        versions: Version of Python, of this package and of every library that matters.
        devices: What there is to compute on.
        models: The registered models.
        device: The device on which the tests ran.
        tests: The tests in their order.
        retrieval: How scenes and photos found each other; None when it was not asked for.
    """

    ok: bool
    versions: dict[str, str]
    devices: tuple[Device, ...]
    models: tuple[CatalogueEntry, ...]
    device: str
    tests: tuple[SelfTest, ...]
    retrieval: RetrievalCheck | None = None

    def text(self) -> str:
        """Return the report for people."""
        width = max(map(len, self.versions))
        lines = [f"{name:{width}}  {version}" for name, version in self.versions.items()]
        lines += [f"device {device.name}: {device.description}" for device in self.devices]
        lines += [f"model {model.name}: {model.title}" for model in self.models]
        lines += [f"{test.outcome}  {test.name}: {test.detail} ({test.seconds:.1f} s)" for test in self.tests]
        lines += [] if self.retrieval is None else [self.retrieval.text()]
        return "\n".join([*lines, "everything works" if self.ok else "something does not work, see above"])


class _SkippedError(Exception):
    """The model lacks what a test needs."""


class _FailedError(Exception):
    """A result differs from what it must be."""


@dataclass(frozen=True)
class _Case:
    """What the tests work on.

    Attributes:
        folder: A temporary folder.
        name: Name or path of the model.
        model: The model, on the device.
        device: The device.
    """

    folder: Path
    name: str
    model: GAIR
    device: torch.device

    @property
    def scenes(self) -> RemoteSensingConfig:
        """Configuration of the scene encoder."""
        if self.model.config.remote_sensing is None:
            raise _SkippedError("the model cannot encode scenes")
        return self.model.config.remote_sensing

    def reflectances(self) -> npt.NDArray[np.uint16]:
        """A textured scene (bands, rows, columns), DN around each band's mean."""
        patch = self.scenes.patch_size
        shape = (len(self.scenes.bands), _PATCHES[0] * patch, _PATCHES[1] * patch)
        noise = np.random.default_rng(0).normal(size=shape)
        mean, std = (np.array(values)[:, None, None] for values in (self.scenes.mean, self.scenes.std))
        return np.clip(mean + std * noise, 1, 10000).astype(np.uint16)

    def features(self) -> Tensor:
        """Features of that scene, (1, width, rows, columns)."""
        dn = torch.from_numpy(self.reflectances().astype(np.float32))
        images = normalize(dn, self.scenes.mean, self.scenes.std, quantize=self.scenes.quantize)[None]
        return self.model.encode_remote_sensing(images.to(self.device))


def check(request: CheckRequest, progress: Progress | None = None) -> CheckResult:
    """Look at the installation and test it.

    A failing test does not raise: it is in the result, and ``ok`` is false.

    Args:
        request: Which model and device to test.
        progress: Told after each test; may cancel.

    Raises:
        CheckpointError: The model cannot be loaded.
        BadInputError: There is no such device, or retrieval cannot be tested with this model or folder.
        CancelledError: The user cancelled.
    """
    progress = progress or Progress()
    device = select_device(request.device)
    models = list_catalogue(ModelsRequest(), Progress())
    model = load_model(request.model).to(device).eval()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="gair-check-", ignore_cleanup_errors=True) as folder:
        case = _Case(Path(folder), request.model, model, device)
        for index, (name, test) in enumerate(_TESTS.items()):
            progress.raise_if_cancelled()
            progress.report(index / len(_TESTS), name)
            outcomes.append(_run(name, test, case))
    retrieval = None
    if request.retrieval is not None:
        progress.report(0.95, "retrieval")
        retrieval = check_retrieval(request.retrieval, model, progress)
    failed = [outcome for outcome in outcomes if outcome.outcome == "fail"]
    for outcome in failed:
        progress.log("warning", f"The self-test '{outcome.name}' failed: {outcome.detail}")
    progress.report(1.0, "done")
    return CheckResult(
        ok=not failed and (retrieval is None or retrieval.verdict != "wrong"),
        versions=versions(),
        devices=devices(),
        models=models.models,
        device=str(device),
        tests=tuple(outcomes),
        retrieval=retrieval,
        warnings=(*models.warnings, *progress.warnings),
    )


def versions() -> dict[str, str]:
    """Return the version of everything that matters, by name; rasterio and pyproj may bring a PROJ each."""
    found = {"gair_core": __version__, "Python": platform.python_version(), "system": platform.platform()}
    found |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    found["GDAL in rasterio"] = rasterio.__gdal_version__
    found["PROJ in rasterio"] = rasterio.__proj_version__
    found["PROJ in pyproj"] = pyproj.proj_version_str
    return found


def devices() -> tuple[Device, ...]:
    """Return what there is to compute on."""
    name = platform.processor() or platform.machine()
    found = [Device(name="cpu", description=f"{name}, {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 1e9:.0f} GB"
        found.append(Device(name=f"cuda:{index}", description=f"{properties.name}, {memory}"))
    if torch.backends.mps.is_available():
        found.append(Device(name="mps", description="Apple GPU"))
    return tuple(found)


def _run(name: str, test: Callable[[_Case], str], case: _Case) -> SelfTest:
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            outcome, detail = "pass", test(case)
    except _SkippedError as reason:
        outcome, detail = "skip", str(reason)
    except (_FailedError, GairError) as error:
        outcome, detail = "fail", str(error)
    except Exception as error:  # whatever a broken library raises is the finding
        outcome, detail = "fail", f"{type(error).__name__}: {error}"
    return SelfTest(name=name, outcome=outcome, detail=detail, seconds=time.perf_counter() - start)


def _compare(found: Tensor, wanted: Tensor, tolerance: float) -> str:
    """Describe the largest difference relative to the largest value, or fail."""
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference <= tolerance:  # NaN fails, too
        raise _FailedError(f"results differ by {difference:.2g} of the largest value")
    return f"differs by {difference:.1g} of the largest value"


def _test_coordinates(case: _Case) -> str:
    """UTM by pyproj's PROJ through the CRS of rasterio's: the equator on a central meridian is exact."""
    del case
    place = Footprint.from_bounds(499_000, -1000, 501_000, 1000, crs="EPSG:32632", width=200, height=200)
    difference = float(np.abs(place.uv([[9.0, 0.0]]) - 0.5).max()) * 2000
    if not difference < 0.001:
        raise _FailedError(f"a place in UTM is {difference:.3g} m off")
    return f"a place in UTM is right to {difference:.0e} m"


def _test_scene_encoder(case: _Case) -> str:
    features = case.features()
    if not bool(torch.isfinite(features).all()):
        raise _FailedError("features are not finite")
    return f"{features.shape[2]} x {features.shape[3]} patches of {features.shape[1]} channels"


def _test_nili(case: _Case) -> str:
    features = case.features()
    localizer = case.model.localizer
    if not isinstance(localizer, NILI):
        raise _SkippedError(f"the localizer is {case.model.config.localizer}")
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(40, 2, generator=generator, dtype=torch.float64).to(features.device, torch.float32)
    # More queries than patches take another way through NILI than few do: test both.
    dense = torch.cat([localizer.interpolate(features, uv[None])[0], _few(localizer, features, uv)])
    wanted = evaluate_directly(localizer, features, uv).repeat(2, 1)
    # GPUs convolve in TF32, which keeps 11 bits.
    return _compare(dense, wanted, 1e-4 if case.device.type == "cpu" else 1e-2)


def _few(localizer: NILI, features: Tensor, uv: Tensor) -> Tensor:
    return torch.cat([localizer.interpolate(features, part[None])[0] for part in uv.split(10)])


def evaluate_directly(nili: NILI, features: Tensor, uv: Tensor) -> Tensor:
    """Evaluate Eq. 1 as it is written: H at the four patch centres around each query, blended by area.

    Args:
        nili: The function H.
        features: Shape (1, width, P_y, P_x).
        uv: Shape (Q, 2) in [0, 1], v down.

    Returns:
        Shape (Q, D).
    """
    rows, columns = features.shape[-2:]
    unfolded = F.unfold(features, 3, padding=1)[0].mT
    size = torch.tensor([columns, rows], device=uv.device)
    position = uv * size - 0.5
    result: Tensor | None = None
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        neighbour = position.floor() + torch.tensor(step, device=uv.device)
        weight = (1 - (position - neighbour).abs()).prod(dim=1, keepdim=True)
        centre = neighbour.clamp(min=torch.zeros_like(neighbour), max=(size - 1).expand_as(neighbour))
        index = (centre[:, 1] * columns + centre[:, 0]).long()
        value = torch.cat([unfolded[index], 2 * (position - centre)], dim=1)
        for number, layer in enumerate(nili.layers):
            value = layer(F.gelu(value) if number else value)
        result = weight * value if result is None else result + weight * value
    if result is None:
        raise ValueError("a query has four neighbours")
    return result


def _test_file_to_file(case: _Case) -> str:
    """A GeoTIFF through scene, engine and writer into a COG: equal to the model's own dense result."""
    features = case.features()
    localizer = case.model.localizer
    if not (isinstance(localizer, NILI) and localizer.is_linear):
        raise _SkippedError("rasters of embeddings need a NILI of one Linear")
    dn = case.reflectances()
    scene, output = case.folder / "scene ä.tif", case.folder / "embedding ä.tif"
    gsd = case.scenes.gsd
    profile = {"driver": "GTiff", "count": len(dn), "height": dn.shape[1], "width": dn.shape[2]}
    transform = from_origin(500_000, 5_500_000, gsd, gsd)
    with rasterio.open(
        scene, "w", dtype="uint16", crs="EPSG:32632", transform=transform, **profile
    ) as dataset:
        dataset.write(dn)
        dataset.descriptions = case.scenes.bands
    embed(
        EmbedRequest(
            scene=str(scene),
            output=str(output),
            components="all",
            dtype="float32",
            model=case.name,
            device=str(case.device),
            offset=0.0,
        )
    )
    with rasterio.open(output) as dataset:
        if dataset.transform != transform or dataset.shape != dn.shape[1:]:
            raise _FailedError("the output does not lie on the input")
        found = torch.from_numpy(dataset.read())
    wanted = case.model.interpolate_dense(features, (dn.shape[1], dn.shape[2]))[0].cpu()
    return _compare(found, wanted, _TOLERANCE[case.device.type])


def _test_photo(case: _Case) -> str:
    config = case.model.config.street_view
    if config is None:
        raise _SkippedError("the model cannot encode photos")
    path = case.folder / "photo ä.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    photo = preprocess(open_photo(path), config)[None]
    embedding = case.model.encode_street_view(photo.to(case.device))
    return _describe_embedding(embedding)


def _test_location(case: _Case) -> str:
    if case.model.config.location is None:
        raise _SkippedError("the model cannot encode places")
    lonlat = torch.tensor([[-180.0, -90.0], [0.0, 0.0], [180.0, 90.0]], dtype=torch.float64)
    return _describe_embedding(case.model.encode_location(lonlat))


def _describe_embedding(embedding: Tensor) -> str:
    if not bool(torch.isfinite(embedding).all()):
        raise _FailedError("embeddings are not finite")
    return f"{embedding.shape[1]} dimensions"


_TESTS: dict[str, Callable[[_Case], str]] = {
    "coordinates": _test_coordinates,
    "scene encoder": _test_scene_encoder,
    "NILI agrees with Eq. 1": _test_nili,
    "from file to file": _test_file_to_file,
    "photo encoder": _test_photo,
    "location encoder": _test_location,
}


TASK = Task("check", CheckRequest, check)
