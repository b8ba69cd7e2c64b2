"""Which codec a declared format means."""

from __future__ import annotations

from cluster.errors import BadInput
from cluster.signature import Signature
from consumers.stream.codecs.cloudevents import REQUIRED, CloudEventsDecoder, EnvelopeDecoder
from consumers.stream.codecs.codec import Decoder, Encoder
from consumers.stream.codecs.codec_arrow import ArrowDecoder, ArrowEncoder
from consumers.stream.codecs.codec_json import JsonDecoder, JsonEncoder
from consumers.stream.codecs.codec_raw import RawDecoder, RawEncoder
from consumers.stream.codecs.codec_registry import AvroDecoder, AvroEncoder, FramedJsonDecoder, FramedJsonEncoder
from consumers.stream.codecs.registry import Schemas
from consumers.stream.sealed.book import SubjectBook
from consumers.stream.sealed.opening import OpeningDecoder
from consumers.stream.spec import Format, InputEnvelope, StreamInput, StreamOutput, StreamSpec


def make_decoder(signature: Signature, given: StreamInput, schemas: Schemas | None = None) -> Decoder:
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
    bare = _decoder(signature, given, schemas)
    if given.envelope is InputEnvelope.NONE:
        return bare
    if given.format is Format.JSON:
        return CloudEventsDecoder(bare, JsonDecoder(signature.inputs, given.fields, under="/data", texts=REQUIRED))
    return CloudEventsDecoder(bare, EnvelopeDecoder(bare))


class Codecs:
    """The decoder and the encoder of a stream, made anew where its model's signature is another. Called from one thread."""

    def __init__(self, spec: StreamSpec, subjects: SubjectBook | None = None) -> None:
        """`subjects` has the keys of what is encrypted, for a stream that decrypts."""
        self._spec, self._subjects = spec, subjects
        self._schemas: Schemas | None = None
        self._made: tuple[Signature, Decoder, Encoder] | None = None

    def of(self, signature: Signature) -> tuple[Decoder, Encoder]:
        """Raises BadInput where the formats can't carry the signature, Unreachable where a registry is away."""
        made = self._made
        if made is None or (made[0] is not signature and made[0] != signature):
            spec = self._spec
            if self._schemas is None and spec.registry is not None:
                self._schemas = Schemas(spec.registry)
            decoder = make_decoder(signature, spec.input, self._schemas)
            if spec.input.decrypt is not None and self._subjects is not None:
                decoder = OpeningDecoder(
                    decoder, spec.input.decrypt, spec.input.decrypt.topic or spec.input.topic, self._subjects
                )
            made = self._made = signature, decoder, make_encoder(signature, spec.output, self._schemas)
        return made[1:]

    def close(self) -> None:
        """Ends the connections to the registry."""
        if self._schemas is not None:
            self._schemas.close()


def _decoder(signature: Signature, given: StreamInput, schemas: Schemas | None) -> Decoder:
    match given.format:
        case Format.JSON:
            return JsonDecoder(signature.inputs, given.fields)
        case Format.RAW:
            return RawDecoder(signature.inputs)
        case Format.ARROW:
            return ArrowDecoder(signature, given.fields)
        case Format.AVRO:
            return AvroDecoder(signature.inputs, given.fields, _registry(schemas))
        case Format.JSON_SCHEMA:
            return FramedJsonDecoder(signature.inputs, given.fields, _registry(schemas))


def make_encoder(signature: Signature, given: StreamOutput, schemas: Schemas | None = None) -> Encoder:
    """The encoder for these outputs. Raises BadInput where the format can't carry them, Unreachable where a registry is away."""
    subject = f"{given.topic}-value"
    wanted, names = given.encrypt.fields if given.encrypt is not None else (), [spec.name for spec in signature.outputs]
    if unknown := sorted(set(wanted) - set(names)):
        raise BadInput(f"the model has no output {unknown}", where="output.encrypt.fields", remedy=f"its outputs are {names}")
    match given.format:
        case Format.JSON:
            return JsonEncoder(signature.outputs)
        case Format.RAW:
            return RawEncoder(signature.outputs)
        case Format.ARROW:
            return ArrowEncoder(signature.outputs)
        case Format.AVRO:
            return AvroEncoder(signature.outputs, subject, _registry(schemas))
        case Format.JSON_SCHEMA:
            return FramedJsonEncoder(signature.outputs, subject, _registry(schemas))


def _registry(schemas: Schemas | None) -> Schemas:
    if schemas is None:
        raise BadInput("the format needs a schema registry", where="spec.registry", remedy="give its url")
    return schemas
