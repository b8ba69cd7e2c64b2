"""Schemathesis asks everything that the served OpenAPI document tells of, well and badly: no answer may be a fault of ours."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from deployments.gateway.http.app import GatewayApp
from tests.support.gateway_fakes import FakeControl, FakeScorer, gateway, model_view, table

EXAMPLES = 25
AS_TOLD: list[schemathesis.CheckFunction] = [status_code_conformance, content_type_conformance, response_schema_conformance]


def app() -> GatewayApp:
    """A gateway that serves the model `pair`."""
    control = FakeControl(table())
    control.models = [model_view()]
    return gateway(FakeScorer(table()), control)


# Commands are the controller's to check, which is a fake here.
schema = schemathesis.openapi.from_asgi("/openapi.json", app()).exclude(path_regex="^/control/")


@schema.parametrize()
@settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_of_which_the_document_tells(case: schemathesis.Case) -> None:
    hold(case)
    if "model" in case.path_parameters:  # few guess its name
        case.path_parameters |= {name: {"model": "pair", "version": "3"}[name] for name in case.path_parameters}
        hold(case)


def hold(case: schemathesis.Case) -> None:
    """Asks, and fails where the answer says more or less than the document, or blames us."""
    answer = case.call()
    late = answer.status_code == 503  # a request may ask for an answer sooner than anybody can give it
    case.validate_response(answer, checks=AS_TOLD if late else [not_a_server_error, *AS_TOLD])
