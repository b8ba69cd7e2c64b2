"""The bench's network in MLServer. Imported by MLServer in its own venv, so it knows nothing of this project."""

from __future__ import annotations

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    """Scores in the server's own process."""

    async def load(self) -> bool:
        """Called once, at the start."""
        assert self.settings.parameters is not None
        self.session = ort.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request, as it comes."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        (p,) = self.session.run(["p"], {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("p", p)])
