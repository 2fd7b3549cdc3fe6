"""Scenes (tests/scenes.py) on the embedded store, on each store, and behind a wire, for all tests that ask for one."""

from collections.abc import Iterator

import pytest

from tests.conftest import MakeDoor
from tests.scenes import OpenScene, Scene
from tests.scenes import open_scene as opened
from tests.wire import Wire


@pytest.fixture
def open_scene(make_door: MakeDoor) -> OpenScene:
    return opened(make_door)


@pytest.fixture
def scene(open_scene: OpenScene, embedded_url: str) -> Scene:
    """On the embedded store."""
    return open_scene(embedded_url)


@pytest.fixture
def each(open_scene: OpenScene, store_url: str) -> Scene:
    """On each store."""
    return open_scene(store_url)


@pytest.fixture
def embedded_wire(embedded_url: str) -> Iterator[Wire]:
    """To the embedded store."""
    with Wire(embedded_url) as wire:
        yield wire


@pytest.fixture
def wire(embedded_wire: Wire) -> Wire:
    """The same; some tests have one of their own, to each store."""
    return embedded_wire


@pytest.fixture
def wired(wire: Wire, embedded_url: str, open_scene: OpenScene) -> Scene:
    """Behind the wire, each request of which is sent once."""
    return open_scene(wire.url, past=embedded_url, tries=1)
