"""The selection of a run that is refitted: an ordinary run, whose validation chooses the steps.

That of a mixture of refitted runs mixes their selections, and its validation chooses the weights.
It lies in the folder `selection` within that of the refitted run; see `refit`.
"""

from typing import NamedTuple

SELECTION = "selection"


class Selection(NamedTuple):
    """What a selection chose, and the steps that were planned until then."""

    best_step: int
    """Steps done at the best validation; 0 for a mixture."""
    best_loss: float
    """Validation loss there, in nats per character."""
    steps: int
    """Steps planned for the refitted run before its selection chose them; 0 for a mixture."""
    epochs: float
    """The same, in passes over the data; 0 where steps were given."""
