"""Check that PyTorch can use the GPUs that Ray counts.

Ray asks the driver for GPUs. PyTorch may be a build for the CPU, or need a later driver.
"""

import logging
import os
import subprocess
import sys

from raycrnn import config
from raycrnn.cluster import nodes
from raycrnn.cluster.allocation import wants_gpus
from raycrnn.cluster.nodes import Nodes
from raycrnn.errors import UsageError

logger = logging.getLogger(__name__)


def require_gpu() -> None:
    """Raise `UsageError` if PyTorch cannot use the GPU of this machine. Call it for `cluster.use_gpu=true`."""
    from raycrnn.model import runtime

    if problem := runtime.why_no_cuda():
        raise _refusal(problem)


def with_usable_gpus(settings: config.Cluster, found: Nodes) -> Nodes:
    """Return the nodes, without their GPUs if PyTorch cannot use the GPU of some node.

    Ray places a worker on any GPU, so a single node decides. A warning says why GPUs are not used.

    Args:
        settings: The group `cluster` of the configuration.
        found: CPUs and GPUs of each node.

    Raises:
        UsageError: PyTorch cannot use the GPU, and `cluster.use_gpu` is true.
    """
    gpus = sum(gpus for _, gpus in found)
    problem = _find_problem() if gpus and wants_gpus(settings, gpus) else None
    if problem is None:
        return found
    if settings.use_gpu is True:
        raise _refusal(problem)
    logger.warning(f"no GPU is used: {problem}")
    return [(cpus, 0.0) for cpus, _ in found]


def _refusal(problem: str) -> UsageError:
    return UsageError(f"cluster.use_gpu=true: {problem}; or set cluster.use_gpu=auto to run on the CPU")


def _find_problem() -> str | None:
    """Return why PyTorch cannot use the GPU of some node, or None."""
    import ray

    if nodes.is_local():
        from raycrnn.model import runtime

        return runtime.why_no_cuda()
    with_gpu = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    answers = nodes.ask_nodes(with_gpu, _probe)
    return next((f"node {address}: {problem}" for address, problem in answers.items() if problem), None)


def _probe() -> str:
    """Return what `why_no_cuda` says in a new process, because Ray hides the GPUs from a task that reserves none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    code = "from raycrnn.model.runtime import why_no_cuda; print(why_no_cuda() or '')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=nodes.NODE_TIMEOUT,
    )
    return done.stdout.strip()
