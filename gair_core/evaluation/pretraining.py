"""Which row of the paper's tables a pretrained model is, told from the configuration that its run left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError
from gair_core.pretrain.config import PretrainConfig, read_config

_PAPER = GAIRConfig.preset("base")


class Variant(NamedTuple):
    """What the tables vary."""

    objective: str
    modalities: tuple[str, ...]
    localizer: str
    hidden: tuple[int, ...]
    location: bool
    patch_size: int
    tile_size: int
    location_kappa: float | None
    balance: str


@dataclass(frozen=True)
class Pretraining:
    """A pretrained model, or how to make one.

    Attributes:
        name: Name of its row's configuration, such as ``ablation_mae``; empty when it is none of the paper's.
        config: Its configuration.
    """

    name: str
    config: PretrainConfig

    @property
    def remark(self) -> str:
        """How it differs in size from the paper's model; empty where it does not."""
        dim = self.config.model.embed_dim
        return "" if dim == _PAPER.embed_dim else f"embed_dim {dim}"


class Pretrainings:
    """The configurations of the paper's rows, to recognise pretrained models by.

    Args:
        folder: Folder of the configurations, ``training/configs``.
        names: Names of those that make a row.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        self._names: dict[Variant, str] = {}
        self._outputs: dict[str, Path] = {}
        for name in names:
            config = read_config(folder / f"{name}.yaml")
            self._names.setdefault(_variant(config), name)
            self._outputs[name] = config.output

    def default_model(self, name: str) -> Path:
        """Return the model that the configuration of a row leaves, ``runs/<name>/model.safetensors``."""
        return self._outputs[name] / "model.safetensors"

    def of_model(self, model: str, run: Path) -> Pretraining | None:
        """Return how a model was pretrained.

        Args:
            model: A checkpoint as a run's configuration names it.
            run: Folder of that run. A relative path is tried from the working directory and from all folders
                above the run, one of which it was started in.

        Returns:
            None where no run's ``config.yaml`` lies beside it: an import, or a registered name.
        """
        if not Path(model).suffix:
            return None
        for start in (Path(), *run.resolve().parents):
            folder = (start / model).parent
            if (folder / "config.yaml").is_file():
                return self.of_run(folder)
        return None

    def of_run(self, folder: Path) -> Pretraining | None:
        """Return what a folder of runs pretrained; None when it did something else."""
        try:
            config = read_config(folder / "config.yaml")
        except BadInputError:
            return None
        return Pretraining(self._names.get(_variant(config), ""), config)


def _variant(config: PretrainConfig) -> Variant:
    model, scenes = config.model, config.model.remote_sensing or _PAPER.remote_sensing
    if scenes is None:
        raise BadInputError("The preset base has no scene encoder.")
    return Variant(
        objective=config.objective.kind,
        modalities=tuple(sorted(config.modalities)),
        localizer=model.localizer,
        hidden=() if model.nili is None else model.nili.hidden,
        location=model.location is not None,
        patch_size=scenes.patch_size,
        tile_size=scenes.tile_size,
        location_kappa=config.augmentation.location_kappa,
        balance=config.sampling.balance,
    )
