"""Which codec a declared format means."""

from __future__ import annotations

from cluster.errors import BadInput
from cluster.signature import Signature
from consumers.stream.codec import Decoder, Encoder
from consumers.stream.codec_json import JsonDecoder, JsonEncoder
from consumers.stream.codec_raw import RawDecoder, RawEncoder
from consumers.stream.spec import Format, Input


def make_decoder(signature: Signature, given: Input) -> Decoder:
    """The decoder for these inputs. Raises BadInput where the format can't carry them."""
    unknown = sorted(set(given.fields) - {spec.name for spec in signature.inputs})
    if unknown:
        names = [spec.name for spec in signature.inputs]
        raise BadInput(f"the model has no input {unknown}", where="input.fields", remedy=f"its inputs are {names}")
    for spec in signature.inputs:
        if -1 in spec.shape[1:]:
            raise BadInput(
                f"input {spec.name} has an open axis {list(spec.shape)}", where="input", remedy="streams need fixed shapes"
            )
    match given.format:
        case Format.JSON:
            return JsonDecoder(signature.inputs, given.fields)
        case Format.RAW:
            return RawDecoder(signature.inputs)


def make_encoder(signature: Signature, format_: Format) -> Encoder:
    """The encoder for these outputs. Raises BadInput where the format can't carry them."""
    match format_:
        case Format.JSON:
            return JsonEncoder(signature.outputs)
        case Format.RAW:
            return RawEncoder(signature.outputs)
