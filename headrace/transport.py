"""How commands reach a gateway that speaks TLS. The one place that makes an SSL context for them.

On the machine of the door they come in by its own socket, which only the user who runs it can open: whatever its certificate is,
and also where callers must have one. Elsewhere HEADRACE_CA_FILE names whom to trust, else the system does.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx

from cluster.errors import BadInput
from deployments.gateway.door.certificates import first_certificate
from deployments.gateway.door.found import doors_of
from headrace.local.home import Home, Settings
from headrace.local.options import UpOptions
from headrace.local.run_state import RunState, load_run

SECURE = "https://"


def verify_for(url: str) -> ssl.SSLContext | bool:
    """What httpx is to check who answers at `url` by. In clear it is nothing: all authorities of the web take 20 ms and more to
    read."""
    return url.startswith(SECURE) or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def transport_to(url: str, settings: Settings) -> httpx.BaseTransport:
    """What to give to httpx for a gateway at `url`. Raises BadInput for unusable files."""
    if not url.startswith(SECURE):
        return httpx.HTTPTransport(verify=verify_for(url), trust_env=False)
    run = _run_at(url, settings.home)
    if run is None:
        return _by_tls(settings, None)
    return DoorTransport(url, settings.home, partial(_by_tls, settings, run.options))


class DoorTransport(httpx.BaseTransport):
    """By the door's own socket while a door of the run at `url` is on this machine, else by what `otherwise` makes. A run that is
    started afresh has another door."""

    def __init__(self, url: str, home: Home, otherwise: Callable[[], httpx.BaseTransport]) -> None:
        self._url, self._home, self._otherwise = url, home, otherwise
        self._socket: Path | None = None
        self._used: httpx.BaseTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Called by httpx."""
        run = _run_at(self._url, self._home)
        path = None if run is None else _socket(run)
        if self._used is None or path != self._socket:
            self.close()
            self._used = (
                self._otherwise()
                if path is None
                else httpx.HTTPTransport(verify=verify_for("http:"), uds=str(path), trust_env=False)
            )
            self._socket = path
        if path is not None:
            request.url = request.url.copy_with(scheme="http")
        return self._used.handle_request(request)

    def close(self) -> None:
        """Safe to repeat."""
        if self._used is not None:
            self._used.close()


def tls_context(settings: Settings, options: UpOptions | None) -> ssl.SSLContext:
    """`options` are of the run that is called, if it is this home's: its own certificate is trusted then, whatever it names."""
    if settings.ca_file is None and options is not None and options.tls_cert is not None and Path(options.tls_cert).exists():
        context = _loaded("--tls-cert", partial(ssl.create_default_context, cadata=first_certificate(Path(options.tls_cert))))
        context.check_hostname = False
    else:
        context = _loaded("HEADRACE_CA_FILE", partial(ssl.create_default_context, cafile=settings.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # who names one certificate means that one
    if settings.client_cert is not None:
        _loaded("HEADRACE_CLIENT_CERT", partial(context.load_cert_chain, settings.client_cert, settings.client_key))
    elif settings.client_key is not None:
        raise BadInput("a key without its certificate", where="HEADRACE_CLIENT_KEY", remedy="set HEADRACE_CLIENT_CERT too")
    return context


def remedy_for(error: BaseException) -> str | None:
    """What to do about an error of TLS, which no waiting mends; None for any other."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    if isinstance(seen, ssl.SSLCertVerificationError):
        return "set HEADRACE_CA_FILE to the authority that its certificate is of, and call it by a name that stands in it"
    if not isinstance(seen, ssl.SSLError):
        return None
    if "ALERT" in str(seen.reason):
        return "set HEADRACE_CLIENT_CERT and HEADRACE_CLIENT_KEY to a certificate that it takes"
    if seen.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "it may speak in clear: try http://"
    return None


def _by_tls(settings: Settings, options: UpOptions | None) -> httpx.BaseTransport:
    return httpx.HTTPTransport(verify=tls_context(settings, options), trust_env=False)


def _run_at(url: str, home: Home) -> RunState | None:
    """The home's run, where it is that at `url`."""
    run = load_run(home)
    return run if run is not None and run.addresses.http == url.rstrip("/") else None


def _socket(run: RunState) -> Path | None:
    """That of the run's door on this machine; of several, of one with gateways."""
    doors = [door for door in doors_of(run.run_id) if door.keeper and door.local is not None]
    return max(doors, key=lambda door: door.gateways).local if doors else None


A = TypeVar("A")


def _loaded(where: str, load: Callable[[], A]) -> A:
    try:
        return load()
    except OSError as error:  # ssl.SSLError is one
        raise BadInput(
            f"can't be used: {error.strerror or error}", where=where, remedy="name a file in PEM that you can read"
        ) from error
