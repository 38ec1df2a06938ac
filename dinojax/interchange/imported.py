"""A model from a file of another program, and the run that it becomes."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinojax.config import TrainConfig
from dinojax.data.corpus import shown
from dinojax.data.stored import NameList, Text, in_vocab
from dinojax.data.vocab import Vocab
from dinojax.messages import about
from dinojax.models.cells import Params
from dinojax.presets import resolve
from dinojax.runs import folder as runs
from dinojax.runs import session
from dinojax.runs.description import Description, Origin, Part, describe
from dinojax.runs.experiment import make_experiment


class Imported(NamedTuple):
    """What a file says of a model."""

    settings: Mapping[str, Any]
    """The settings of a configuration that it decides, such as the cell."""
    params: Params
    """NumPy arrays in float32, as `model.char_model` nests them."""
    vocab: Vocab | None
    """Its characters; None if it does not name them."""
    trained_with: TrainConfig | None = None
    """The configuration that it was trained with; None if that is not recorded."""


def in_float32(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """An array in float32; a ValueError if a number is not finite there."""
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError("expected finite numbers, got some that are not finite in float32")
    return numbers


def run_config(imported: Imported, preset: str | None, **given: Any) -> TrainConfig:
    """The configuration of the run that an imported model becomes.

    The settings that the model does not decide are those of the preset, or, without one, those that
    it was trained with; `text` where these are not recorded. `given` settings replace them. Nothing
    is held out, as the model may have learned from all of the data: no part would be new to it.

    Raises:
        ValueError: a setting has a bad value, or the preset is for a text and the model learned
            names, or the reverse.
    """
    earlier = imported.trained_with
    recorded = asdict(earlier) if earlier and not preset else None
    alone = {"validation_fraction": 0.0, "test_fraction": 0.0, "patience": 0, "devices": 0}
    # No format that is imported has rounds.
    given = {"mogrifier_rounds": 0, **imported.settings, **alone, **given}
    return resolve(preset or "text", recorded=recorded, earlier=earlier, given=given)


def with_rows_for(config: TrainConfig, data: Part) -> TrainConfig:
    """The configuration with fewer, then shorter rows if a text is too short for its windows."""
    if not isinstance(data, str | Text) or len(data) >= config.batch_size * config.window:
        return config
    window = min(config.window, len(data))
    return replace(config, batch_size=len(data) // window, window=window)


def start_run(
    imported: Imported,
    folder: Path | str,
    config: TrainConfig,
    data: Part,
    *,
    overwrite: bool = False,
    source: str = "",
    sha256: str = "",
    init_from: str = "",
) -> Description:
    """Make a run in a folder that starts from an imported model, with its first checkpoint.

    `config` has the settings of the model, and `data` become those of the run. A model that does
    not name its characters gets those of the data, sorted. The optimizer starts afresh, so that
    resuming the run is training as in a new one. For `source` and the rest see
    `description.describe`; `init_from` is the path of the file. Returns the description of the run.

    Raises:
        OSError: a file cannot be written.
        ValueError: the data have more or fewer characters than the model, or do not suit the
            configuration, or the folder is not suitable; see `folder.take_folder`.
    """
    folder = Path(folder)
    if imported.vocab:
        named = shown(Path(source)) if source else "these data"
        with about(f"the earlier run cannot read {named}"):
            if isinstance(data, Text | NameList):
                in_vocab(data, imported.vocab)
            else:
                for text in [data] if isinstance(data, str) else data:
                    imported.vocab.encode(text)
    origin = Origin(init_from, imported.vocab, "", (), ())
    description, parts, dataset = describe(config, data, origin, source=source, sha256=sha256)
    num_inputs, num = len(imported.params["layers"][0]["input_kernel"]), description.vocab.size
    if num_inputs != num:
        raise ValueError(
            f"the model reads {num_inputs:,} different characters, the data have {num:,}, newline "
            "included; expected the text that the model learned from, in lower case if it was so"
        )
    experiment = make_experiment(description, parts, dataset)
    runs.take_folder(folder, overwrite)
    with runs.locked(folder):
        session.start(experiment, folder, imported.params)
    return description
