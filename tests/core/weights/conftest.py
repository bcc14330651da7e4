"""No test of this folder meets a proxy, the user's folders or the network."""

from __future__ import annotations

import platformdirs
import pytest

from gair_core import registry
from gair_core.weights import cache
from tests.core.weights.serving import Site, serve

CONTENT = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "user")


@pytest.fixture
def site():
    with serve(Site(CONTENT)) as site:
        yield site
