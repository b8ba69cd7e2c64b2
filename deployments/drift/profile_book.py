"""The profiles of the versions that a process scores with, each loaded once, when the version is first used."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cluster.errors import HeadraceError, Unreachable
from cluster.routing.routes import Target
from deployments.artifacts.profile import fetch_profile
from deployments.drift.version_counting import VersionCounting
from deployments.profiles.form import Profile

AGAIN_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownProfile:
    """What follows from a version's profile; `counting` watches nothing where it has none. `until_s` is when its place is asked
    again, since it could not be (monotonic)."""

    counting: VersionCounting
    until_s: float = math.inf


class ProfileBook:
    """Used from any thread."""

    def __init__(self, fetch: Callable[[str, str], Profile | None] = fetch_profile) -> None:
        """`fetch` finds the profile of the artifact at a place, of a digest."""
        self._fetch = fetch
        self._lock = threading.Lock()
        self._known: dict[str, KnownProfile] = {}
        self._loading: set[str] = set()

    def known(self, model: str, target: Target) -> KnownProfile | None:
        """What is known of the version; None while it is loaded, or its place is away. Returns at once."""
        found = self._known.get(target.app)
        if found is None or time.monotonic() >= found.until_s:
            self._begin(model, target)
        return found if found is not None and found.until_s == math.inf else None

    def load(self, model: str, target: Target) -> KnownProfile:
        """The same, and waits for it. Never raises: where the profile can't be had, nothing is watched."""
        found = self._known.get(target.app)
        return found if found is not None and time.monotonic() < found.until_s else self._load(model, target)

    def keep(self, apps: Collection[str]) -> list[VersionCounting]:
        """Only these versions are used from now on. Returns what is known of them."""
        with self._lock:
            self._known = {app: found for app, found in self._known.items() if app in apps}
            return [found.counting for found in self._known.values()]

    def _begin(self, model: str, target: Target) -> None:
        with self._lock:
            if target.app in self._loading:
                return
            self._loading.add(target.app)
        threading.Thread(target=self._load, args=(model, target), name=f"profile-{target.app}", daemon=True).start()

    def _load(self, model: str, target: Target) -> KnownProfile:
        until_s = math.inf
        counting = VersionCounting(model, target.version, None)
        try:
            counting = VersionCounting(model, target.version, self._fetch(target.artifact_uri, target.digest))
        except Unreachable as error:
            until_s = time.monotonic() + AGAIN_S
            _log.warning("the rows of %s are not watched, its profile is looked for again: %s", target.app, error)
        except HeadraceError as error:
            _log.warning("the rows of %s are not watched: %s", target.app, error)
        except Exception:  # noqa: BLE001 - a defect: the version is scored with all the same
            _log.exception("the rows of %s are not watched", target.app)
        found = KnownProfile(counting, until_s)
        with self._lock:
            self._known[target.app] = found
            self._loading.discard(target.app)
        return found
