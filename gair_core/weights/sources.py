"""The list of weights that can be downloaded: ``sources.txt`` and ``checksums.txt`` beside this file."""

from __future__ import annotations

import configparser
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

SourceName = Literal["gair", "geoclip", "croma"]
_SOURCES = Path(__file__).with_name("sources.txt")
_CHECKSUMS = Path(__file__).with_name("checksums.txt")
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
        return _file_name(self.address)

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
    parser.read_string(_SOURCES.read_text(encoding="utf-8"))
    entry = parser[name]
    size, member = entry["size"], entry.get("member", "")
    checksums = read_checksums(_CHECKSUMS)
    return Source(
        name=name,
        title=entry["title"],
        kind=entry["kind"],
        page=entry["page"],
        address=entry["address"],
        size=int(size.removeprefix(_AT_LEAST)),
        size_is_exact=not size.startswith(_AT_LEAST),
        sha256=checksums.get(_file_name(entry["address"]), ""),
        member=member,
        member_sha256=checksums.get(PurePosixPath(member).name, ""),
        licence=entry["licence"],
        cite=entry["cite"],
    )


def read_checksums(path: Path) -> dict[str, str]:
    """Return the checksums of a file as ``sha256sum`` writes it, hexadecimal, by file name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {name: digest for digest, name in pairs}


def _file_name(address: str) -> str:
    return PurePosixPath(unquote(urlsplit(address).path)).name
