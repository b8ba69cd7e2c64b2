"""Whether a version's files can be had, without fetching them."""

from __future__ import annotations

from cluster.errors import BadArtifact, Unreachable
from deployments.artifacts.manifest import MANIFEST, REMEDY
from deployments.artifacts.roots import is_in_registry


def ask_artifact(uri: str) -> None:
    """Looks at the place of the artifact at `uri`, which every machine must reach that serves it.

    Raises Unreachable, BadArtifact where there is none; of a registry also NotFound, Unauthenticated, Forbidden.
    """
    if is_in_registry(uri):
        from deployments.artifacts.oci_place import look_up  # an HTTP client, which others go without

        look_up(uri)
        return
    from deployments.artifacts.places import locate  # 30 MB of pyarrow

    place = locate(uri) / MANIFEST
    try:
        there = place.exists()
    except OSError as error:
        remedy = "see that its place is there, and that this machine has a login for it"
        raise Unreachable(f"the artifact can't be read: {error}", where=uri, remedy=remedy) from error
    if not there:
        raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=REMEDY)
