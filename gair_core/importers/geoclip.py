"""Import GeoCLIP's location encoder from the weights that its Python package carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gair_core.config import GAIRConfig, LocationConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.importers.common import ImportReport, TensorMapping, build_model, read_foreign, state_dict
from gair_core.model.gair import GAIR

_WEIGHTS = Path("model", "weights", "location_encoder_weights.pth")
# The whole GeoCLIP model keeps its location encoder under this name.
_PREFIX = "location_encoder."
# GeoCLIP takes (latitude, longitude), but projects them to the same (x, y) as we do: no weight is swapped.
_NOTE = "places are (longitude, latitude) here, although GeoCLIP takes (latitude, longitude)"


def import_geoclip(path: Path | None = None) -> tuple[GAIR, ImportReport]:
    """Read GeoCLIP's location encoder as a model that has a location encoder alone.

    Args:
        path: A file of its weights, alone or with the rest of GeoCLIP; None for those of the installed
            package.

    Returns:
        The model in evaluation mode (512 dimensions with GeoCLIP's own weights), and what became of every
        tensor.

    Raises:
        BadInputError: The package is not installed.
        CheckpointError: The file is no such checkpoint; missing and mis-shaped tensors are listed.
    """
    path = package_weights() if path is None else path
    mapping = TensorMapping(*state_dict(read_foreign(path), path))
    prefix = _PREFIX if f"{_PREFIX}LocEnc0.capsule.0.b" in mapping else ""
    config = _configuration(mapping, prefix, path)
    _map_capsules(mapping, prefix, config.location or LocationConfig())
    mapping.ignore("image_encoder.", "the photo encoder of GeoCLIP, whose embedding space is its own")
    mapping.ignore("logit_scale", "the temperature of GeoCLIP's own loss")

    model = build_model(config, mapping, path)
    notes = [_NOTE, f"embeddings have {config.embed_dim} dimensions"]
    return model, mapping.report("geoclip", path, notes)


def package_weights() -> Path:
    """Return the file of weights inside the installed package, which is not imported for it.

    Raises:
        BadInputError: The package is not installed or carries no weights.
    """
    spec = importlib.util.find_spec("geoclip")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / _WEIGHTS
    if path is None or not path.is_file():
        raise BadInputError(
            "The weights of GeoCLIP come with the Python package geoclip, which is not installed here.",
            "Fetch them: gair download geoclip. Or install it: pip install 'gair-core[geoclip]'.",
        )
    return path


def _configuration(mapping: TensorMapping, prefix: str, path: Path) -> GAIRConfig:
    capsules = mapping.count(f"{prefix}LocEnc{{}}.capsule.0.b")
    sigmas = LocationConfig().sigmas
    if capsules != len(sigmas):
        raise CheckpointError(
            f"{path} should hold GeoCLIP's {len(sigmas)} capsules LocEnc0 to LocEnc{len(sigmas) - 1}, "
            f"found {capsules}.",
            "Check the kind of the file.",
        )
    capsule = f"{prefix}LocEnc0.capsule"
    # Fourier features, then Linear and ReLU in turns: the Linears have the odd numbers.
    layers = sum(f"{capsule}.{number}.weight" in mapping for number in range(1, 64, 2))
    return GAIRConfig(
        embed_dim=mapping.shape(f"{prefix}LocEnc0.head.0.weight")[0],
        remote_sensing=None,
        street_view=None,
        nili=None,
        location=LocationConfig(
            sigmas=sigmas,
            num_frequencies=mapping.shape(f"{capsule}.0.b")[0],
            hidden_width=mapping.shape(f"{capsule}.1.weight")[0],
            hidden_layers=layers,
        ),
        localizer="bilinear",
    )


def _map_capsules(mapping: TensorMapping, prefix: str, places: LocationConfig) -> None:
    for index in range(len(places.sigmas)):
        capsule, foreign = f"location.capsules.{index}", f"{prefix}LocEnc{index}"
        mapping.add(f"{capsule}.frequencies", f"{foreign}.capsule.0.b")
        for layer in range(places.hidden_layers):
            # Both are Sequentials of Linear and ReLU; theirs begins with the Fourier features.
            mapping.add_module(f"{capsule}.layers.{2 * layer}", f"{foreign}.capsule.{2 * layer + 1}")
        mapping.add_module(f"{capsule}.head", f"{foreign}.head.0")
