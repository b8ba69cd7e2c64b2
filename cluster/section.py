"""What every section of a project file is, and what of documents has no type of its own in JSON."""

from __future__ import annotations

import base64
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


class Section(BaseModel):
    """Base of the sections: nothing unknown, and finite numbers only, for JSON has no others and so no store could keep them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def _decoded(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


# Unlike pydantic's own, it takes bytes for what they are.
Base64Bytes = Annotated[bytes, BeforeValidator(_decoded), PlainSerializer(lambda raw: base64.b64encode(raw).decode())]
