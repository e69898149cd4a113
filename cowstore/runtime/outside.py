"""What the launcher does of a plan: the namespaces it gives birth in, and the steps outside, where this machine is.

Apart from the rest of the plan, which only process 1 needs: `cowstore-run` gives birth to it as soon as this is loaded,
and each loads what else it needs meanwhile.
"""

from __future__ import annotations

from cowstore._linux.namespaces import CloneFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.operations import Operation
    from cowstore.runtime.spec import Spec


def namespaces(spec: Spec) -> CloneFlag:
    """Tell which namespaces process 1 is born in."""
    return born_in(network=spec.network, grouped=spec.limits is not None or bool(spec.runtime))


def born_in(*, network: str = "none", grouped: bool = False) -> CloneFlag:
    """Tell the namespaces by the two things that they depend on.

    :param grouped: process 1 gets into a control group of its own.
    """
    flags = CloneFlag.NEWNS | CloneFlag.NEWPID | CloneFlag.NEWUTS | CloneFlag.NEWIPC
    if not grouped:
        # Otherwise it comes later, when process 1 is in the group that shall be the topmost it sees.
        flags |= CloneFlag.NEWCGROUP
    return flags if network == "host" else flags | CloneFlag.NEWNET


def outside(spec: Spec) -> list[Operation]:
    """Return the steps of the launcher."""
    from cowstore.runtime import root
    from cowstore.runtime.operations import Stage, operation

    steps = []
    if spec.limits is not None:
        from cowstore.runtime import cgroups

        steps.append(operation(Stage.LAUNCHER, cgroups.make_groups, limits=spec.limits))
    if spec.runtime:
        from cowstore.runtime import oci

        steps.append(operation(Stage.LAUNCHER, oci.make_group))
    if spec.network == "user":
        from cowstore.runtime import network

        steps.append(operation(Stage.LAUNCHER, network.find_helper))
    if spec.binds and not spec.runtime:
        steps.append(operation(Stage.LAUNCHER, root.open_binds, binds=spec.binds))
    steps.append(
        operation(Stage.LAUNCHER, root.realise_root, mounts=spec.mounts, read_only=spec.read_only, held=spec.holds_root)
    )
    return steps
