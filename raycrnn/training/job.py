"""The job that a command passes to its training workers. Importing it does not import torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycrnn.cluster import TrainingAllocation
from raycrnn.config import Configuration
from raycrnn.ingest.training_data import TrainingData
from raycrnn.training.initial_model import InitialModel

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorProxy

    from raycrnn.training.monitor import Monitor


@dataclass(frozen=True)
class TrainingJob:
    """What a training worker needs to know about its run."""

    configuration: Configuration
    data: TrainingData
    output: str
    """Output directory: a path, on a disk that all nodes share if several nodes train, or a URI."""
    allocation: TrainingAllocation
    started: float
    """When the command started, in seconds since 1970."""
    monitor: "ActorProxy[Monitor]"
    image_cache_registry: "ActorProxy[Monitor]"
    """The monitor that holds the decoded images; all trials of a search use that of the search."""
    cache_images: bool
    """Whether decoded training images are kept in memory."""
    initial_model: InitialModel | None = None
    """The model with whose weights training starts, unless there is a checkpoint. A resumed run has none."""
    exchanges_weights: bool = False
    """Whether trials continue from each other's weights. Training then saves a checkpoint after every evaluation,
    however short the time since the last one, and waits for the decision of the search."""
    counts_all_minutes: bool = False
    """Whether `training.max_minutes` includes the time that was spent before the run was interrupted."""
    owner: str | None = None
    """The owner of an output directory in object storage: `storage.Directory.owner`."""
    language_model: "ObjectRef | None" = None
    """The language model of the run in the object store, an `NgramModel`; None if there is none."""
    trains_on: bool = False
    """Whether the run was finished and trains on with larger limits."""
    taken_over: str | None = None
    """The name of a checkpoint that is from another run, whose best model must not count as the best one of this run.
    """
