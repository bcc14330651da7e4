"""The list of weights that can be downloaded, read from ``sources.txt`` beside this file."""

from __future__ import annotations

import configparser
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

SourceName = Literal["gair", "geoclip", "croma"]
_FILE = Path(__file__).with_name("sources.txt")
_AT_LEAST = "at least "


@dataclass(frozen=True)
class Source:
    """Weights of another project.

    Attributes:
        name: What a user calls them; also the name under which they are registered.
        title: One line for people.
        kind: Importer that reads them, as in ``gair import KIND``.
        page: Web page about them.
        address: Address of the file, https.
        size: Bytes of the file, or the least that it can have.
        size_is_exact: Whether `size` is the file's.
        sha256: Checksum of the file, hexadecimal; empty where it is not known before the download.
        member: Path of the weights within the file where that is a zip archive, else empty.
        member_sha256: Checksum of that member, hexadecimal.
        licence: Their licence, and what it means.
        cite: The paper.
    """

    name: SourceName
    title: str
    kind: str
    page: str
    address: str
    size: int
    size_is_exact: bool
    sha256: str
    member: str
    member_sha256: str
    licence: str
    cite: str

    @property
    def file_name(self) -> str:
        """Name of the file at `address`."""
        return PurePosixPath(unquote(urlsplit(self.address).path)).name

    def size_text(self) -> str:
        """Return the size for people."""
        return f"{'' if self.size_is_exact else 'at least '}{self.size / 1e6:.0f} MB"

    def notice(self) -> str:
        """Return what a user must know before the download."""
        checksum = f"SHA-256 {self.sha256}" if self.sha256 else "SHA-256 as the server publishes it"
        return "\n".join(
            [
                f"{self.title} ({self.size_text()}, {checksum})",
                f"from {self.address}",
                f"licence: {self.licence}",
                f"paper: {self.cite}; page: {self.page}",
            ]
        )


@cache
def find_source(name: SourceName) -> Source:
    """Return the source of this name."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(_FILE.read_text(encoding="utf-8"))
    entry = parser[name]
    size = entry["size"]
    return Source(
        name=name,
        title=entry["title"],
        kind=entry["kind"],
        page=entry["page"],
        address=entry["address"],
        size=int(size.removeprefix(_AT_LEAST)),
        size_is_exact=not size.startswith(_AT_LEAST),
        sha256=entry.get("sha256", ""),
        member=entry.get("member", ""),
        member_sha256=entry.get("member_sha256", ""),
        licence=entry["licence"],
        cite=entry["cite"],
    )
