"""A Keras file's inputs and outputs. Keras' safe mode stays on: a file with code in it is refused."""

from __future__ import annotations

from pathlib import Path

import keras

from deployments.builder.looking.seen import Seen, SeenInput
from deployments.builder.sources.from_keras import input_spec, load


def look_keras(file: Path) -> Seen:
    """Raises BadInput where it is damaged, would run code, or has layers that Keras does not have."""
    model = load(file, {})
    several = not isinstance(model, keras.Sequential) and isinstance(model.output, list | tuple)
    outputs = list(getattr(model, "output_names", ())) if several else []
    return Seen(
        inputs=tuple(SeenInput(spec=input_spec(item, str(file))) for item in model.inputs),
        outputs=tuple(outputs) if len(set(outputs)) == len(outputs) else (),
    )
