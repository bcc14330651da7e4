"""Configurations of runs: files, bases, presets, overrides and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError
from gair_core.pretrain.config import PretrainConfig, read_config
from gair_core.yaml_config import to_yaml

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_project_is_sound(path: Path) -> None:
    config = read_config(path)
    assert PretrainConfig.parse(yaml.safe_load(to_yaml(config))) == config
    assert str(config.output) == f"runs/{path.stem}"


def test_table_4_varies_one_thing_each() -> None:
    full = read_config(CONFIGS / "ablation_gair.yaml")
    assert full.model == GAIRConfig.preset("base")
    assert read_config(CONFIGS / "ablation_mae.yaml").objective.kind == "mae"
    pooled = read_config(CONFIGS / "ablation_without_nili.yaml")
    assert (pooled.model.localizer, pooled.model.nili) == ("pool", None)
    assert pooled.modalities == ("scene", "photo", "location")
    plain = read_config(CONFIGS / "ablation_without_nili_and_location.yaml")
    assert (plain.model.localizer, plain.modalities) == ("pool", ("scene", "photo"))
    for name in ("bilinear", "bicubic"):
        assert read_config(CONFIGS / f"ablation_{name}.yaml").model.localizer == name
    assert read_config(CONFIGS / "ablation_hidden_layers.yaml").model.nili.hidden == (768, 768)
    for name in ("ablation_mae", "ablation_without_nili", "ablation_without_location", "patch16"):
        other = read_config(CONFIGS / f"{name}.yaml")
        assert (other.sampling, other.optimizer, other.epochs) == (full.sampling, full.optimizer, full.epochs)


def test_overrides_reach_any_depth() -> None:
    config = read_config(
        CONFIGS / "base.yaml",
        [
            "model.preset=tiny",
            "model.nili.hidden=[8]",
            "optimizer.peak_rate=1e-3",
            "data.store=elsewhere",
            "steps=5",
        ],
    )
    assert config.model.embed_dim == 192
    assert config.model.nili.hidden == (8,)
    assert config.optimizer.peak_rate == 1e-3
    assert config.data.store == Path("elsewhere")
    assert config.steps == 5


def test_a_change_can_be_laid_over_another_run() -> None:
    small = read_config(CONFIGS / "world_tiny.yaml")
    pooled = read_config(CONFIGS / "ablation_without_nili.yaml", base=CONFIGS / "world_tiny.yaml")
    assert (pooled.model.localizer, pooled.model.nili) == ("pool", None)
    assert pooled.model.remote_sensing == small.model.remote_sensing
    assert (pooled.sampling, pooled.optimizer, pooled.epochs) == (
        small.sampling,
        small.optimizer,
        small.epochs,
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.peek_rate=1", r"optimizer\.peek_rate: Extra inputs are not permitted"),
        ("sampling.batch_size=0", r"sampling\.batch_size: .*greater than 0 \(found 0\)"),
        ("precision=fp16", r"precision: .*'bf16-mixed'"),
        ("model.preset=huge", "model.preset is 'huge'"),
        ("objective.modalities=[scene]", "two or three different"),
        ("model.location=null", r"needs the parts \['location'\]"),
        ("devices=3", "cannot be shared by 3 ranks"),
        ("steps", "is no override"),
        ("steps=[", "is no YAML"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_config(CONFIGS / "base.yaml", [override])


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.yaml cannot be read"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(BadInputError, match="name each other as base"):
        read_config(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("- 1\n")
    with pytest.raises(BadInputError, match="must hold keys and values, found list"):
        read_config(tmp_path / "c.yaml")
