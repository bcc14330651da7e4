"""What a checkpoint says about itself beside its weights: title, provenance and fingerprint."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Provenance(BaseModel):
    """Where the weights come from.

    Attributes:
        source: File, address or paper that they were taken from, or the training run.
        licence: Licence of the weights.
        training_data: Data that they were trained on.
        git_revision: Revision of this project that trained them.
        importer: Importer that converted them, empty when they were trained here.
        metrics: Results of the training or the evaluation by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = ""
    licence: str = ""
    training_data: str = ""
    git_revision: str = ""
    importer: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)

    def merged_with(self, other: Provenance) -> Provenance:
        """Return the provenance of weights that come from both; what is the same is said once."""
        names = ("source", "licence", "training_data", "git_revision", "importer")
        texts = {name: _join(getattr(self, name), getattr(other, name)) for name in names}
        return Provenance(**texts, metrics={**self.metrics, **other.metrics})


class CheckpointMetadata(BaseModel):
    """What a checkpoint says about itself.

    Attributes:
        title: One line for people, for example "GAIR tiny on the procedural world".
        provenance: Where the weights come from.
        name: Registered name or file stem under which it was loaded; it is not stored.
        fingerprint: SHA-256 of the weights without the PCA basis, hexadecimal, so that a head still fits its
            encoder after the basis was fitted anew; computed when saved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "untitled"
    provenance: Provenance = Provenance()
    name: str = ""
    fingerprint: str = ""

    def merged_with(self, other: CheckpointMetadata) -> CheckpointMetadata:
        """Return the metadata of a model with parts of both."""
        return CheckpointMetadata(
            title=_join(self.title, other.title, " + "),
            provenance=self.provenance.merged_with(other.provenance),
        )


def _join(first: str, second: str, separator: str = "; ") -> str:
    return separator.join(dict.fromkeys(text for text in (first, second) if text))
