"""`headrace up --join`: stays beside a Ray that somebody else runs, such as the head's container of a Pod.

As `--supervise` it brings back what is away, also on another Ray that has taken the first one's place. It owns nothing: told to
end, it ends alone, and what serves goes on.
"""

from __future__ import annotations

from dataclasses import replace

from cluster.errors import BadInput, Conflict, HeadraceError
from headrace.local.home import Home, Settings
from headrace.local.options import UpOptions
from headrace.local.repairs.supervise import AtOnce, Say, Supervisor, only_supervisor, told_by_signals
from headrace.local.run_state import clear_run, load_run, notes_a_joined_ray

THIS_MACHINES = "auto"  # Ray's own word for the one that runs here


def stay_joined(options: UpOptions, settings: Settings, say: Say) -> None:
    """Returns once SIGTERM or SIGINT came, and waits for a Ray as long as none is there.

    What it can't do it says, and tries again: a container that ends is only started again. Raises BadInput for an option that
    needs a Ray of our own, Conflict where this home has one or another command looks after it. To be called in the main thread.
    """
    check_joins(options)
    beside = replace(settings, ray_address=settings.ray_address or THIS_MACHINES)
    with only_supervisor(settings.home):
        forget_run(settings.home)
        supervisor = JoinedSupervisor(options, beside, say, gives_up=False)
        with told_by_signals(supervisor.stop):
            try:
                supervisor.run()
            except AtOnce:
                say("told again")
    say("told to end: what runs on the cluster goes on")


class JoinedSupervisor(Supervisor):
    """Applies an Access document only where there never was one. A container is started again at any time: what somebody
    applied since must not be undone by it, such as a grant that was taken away."""

    def _up_once(self) -> HeadraceError | None:
        if self._options.access:
            from headrace.local.network_access import has_document  # the store's libraries, which nothing else here needs

            try:
                if has_document(self._settings):
                    self._options = replace(self._options, access="")
            except HeadraceError as error:
                return error
        return super()._up_once()


def check_joins(options: UpOptions) -> None:
    """Raises BadInput for what only a Ray of our own can have. Pure."""
    ours = {"--broker": options.broker, "--prometheus": options.prometheus, "--num-cpus": options.num_cpus is not None}
    given = [name for name, asked in ours.items() if asked]
    if given:
        raise BadInput("goes with a Ray of our own", where=f"--join {' '.join(given)}", remedy=f"leave out {' and '.join(given)}")


def forget_run(home: Home) -> None:
    """What an earlier life of this command noted, or another Headrace's, is of a Ray that may be gone. Raises Conflict where the
    home's own Ray runs, or may."""
    try:
        state = load_run(home)
    except Conflict:
        if not notes_a_joined_ray(home):
            raise
        state = None
    if state is not None and state.owns_ray and state.ray_lives():
        raise Conflict(
            "this home runs a Ray of its own",
            where=str(home.run_file),
            remedy="`headrace down` first, or set another HEADRACE_HOME",
        )
    clear_run(home)
