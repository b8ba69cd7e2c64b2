"""What each process of our Ray does before it takes work: see to it that Serve is loaded without pandas.

Serve loads pandas for one encoder, of data frames in answers of its own proxy, which is off; it goes without where there is none.
That would be 50 MB and a second of each replica, each gateway and each controller. Whoever else asks for pandas gets it.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from deployments.insides import Inside

# Ray's workers call what it names as they start; Ray itself sets it for who gives a `worker_process_setup_hook`.
SETUP_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
SETUP = f"{__name__}.set_up"
_PRICE = "each process of Serve holds pandas too: 50 MB, and a second of its start"
_ENCODERS = Inside("ray.serve._private.utils", "serve_encoders", without=_PRICE)
_VARIABLE = Inside("ray._private.ray_constants", "WORKER_PROCESS_SETUP_HOOK_ENV_VAR", without=_PRICE)
# Looked up by its contract test alone: to look here would load what is to be spared.
TABLE = (_ENCODERS, _VARIABLE)


def set_up() -> None:
    """From now on, in this process. Called before Serve is imported; safe to repeat."""
    if not any(isinstance(finder, _NoPandasForServe) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandasForServe())


class _NoPandasForServe(MetaPathFinder):
    """Says that there is no pandas, while the module of Serve that asks is being loaded."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - as Python calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            asking = sys.modules.get(_ENCODERS.module)
            if asking is not None and not hasattr(asking, _ENCODERS.name):
                raise ModuleNotFoundError("not for Serve", name=fullname)
        return None


if __name__ == "__main__":  # python -m deployments.serving.worker_setup MODULE ...: runs the module, set up
    set_up()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
