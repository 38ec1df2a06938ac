"""The experiment of a run on the devices that are there."""

from dataclasses import replace
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser
from dinojax.messages import about, count
from dinojax.processes import num_processes

if TYPE_CHECKING:
    from dinojax.data.batches import Dataset
    from dinojax.runs.description import Description, Parts
    from dinojax.runs.experiment import Experiment


def make(
    parser: Parser,
    description: "Description",
    parts: "Parts",
    dataset: "Dataset",
    *,
    may_change: bool = False,
) -> "Experiment":
    """The experiment of a run, once JAX has started.

    Where not as many devices are there, their number `may_change`, and a note says so.
    """
    from dinojax import parallel
    from dinojax.runs.experiment import make_experiment

    wanted = description.config.devices
    try:
        with about("--devices"):
            parallel.make_mesh(wanted or num_processes())
    except ValueError:
        if not may_change:
            raise
        description = description._replace(config=replace(description.config, devices=0))
    experiment = make_experiment(description, parts, dataset)
    if (devices := experiment.config.devices) != (wanted or devices):
        had = f"the run had {count(wanted, 'device')} and goes on with {devices}"
        parser.note(f"{had}; its numbers may differ in their last digits")
    return experiment
