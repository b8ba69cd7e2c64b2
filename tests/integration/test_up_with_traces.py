"""`headrace up --traces --log-form json`: what is called and streamed there is traced, and logs are JSON lines."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import httpx
import pytest
from kafka import KafkaProducer

from cluster.commands.documents import Apply, FeedDocument
from cluster.commands.feeds import FeedName
from consumers.stream.spec import Client, Format, StreamInput, StreamOutput
from headrace.client import ControlClient
from headrace.local.home_key import home_key
from tests.integration.test_stream_traces import COUNT, read
from tests.support.live import Service
from tests.support.machine import Machine
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.stream_topics import small_stream
from tests.support.trace_receiver import receiving
from tests.support.waiting import until

MODEL = "traced"
SERVING = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]


def test_all_processes_trace_and_log_as_up_was_told(machine: Machine, broker: str, tmp_path: Path) -> None:
    with receiving() as receiver:
        options = ("--traces", receiver.url, "--trace-ratio", "0", "--log-form", "json", "--log-level", "info")
        url = machine.answer("up", *machine.ports, *options)["addresses"]["http"]
        with ControlClient(url, timeout_s=60.0, token=home_key(machine.home)) as control:
            service = Service(MODEL, url, control)
            service.register(mlp_artifact(tmp_path, MODEL))
            service.apply(SERVING, {})
            assert service.ended(1).state == "promoted"
            spec = small_stream(broker, Client.LIBRDKAFKA, 1).model_copy(update={"model": MODEL, "brokers": broker})
            raw = {
                "input": StreamInput(topic=spec.input.topic, partitions=1, format=Format.RAW),
                "output": StreamOutput(topic=spec.output.topic, partitions=1, format=Format.RAW),
            }
            spec = spec.model_copy(update=raw)
            feed = FeedDocument(kind="stream", name="scores", model=MODEL, spec=spec.model_dump(mode="json"))
            control.apply(Apply(feeds=(feed,)))
            by_http, by_kafka = (f"{random.getrandbits(128):032x}" for _ in range(2))
            tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}
            called = httpx.post(
                f"{url}/v2/models/{MODEL}/infer",
                json={"inputs": [tensor]},
                headers={"traceparent": f"00-{by_http}-00f067aa0ba902b7-01"},
                timeout=60,
                trust_env=False,
            )
            assert called.status_code == 200
            until(lambda: control.feed(FeedName(kind="stream", name="scores")).status == "ready", 120)
            with_trace = [("traceparent", f"00-{by_kafka}-00f067aa0ba902b7-01".encode())]
            producer = KafkaProducer(bootstrap_servers=broker)
            for number in range(COUNT):
                headers = [("n", str(number).encode()), *(with_trace if number == 1 else [])]
                producer.send(spec.input.topic, rows(1, seed=number).tobytes(), b"k", headers=headers)
            producer.close()
            answered = read(broker, spec.output.topic)
            asked, taken = receiver.trace(by_http, least=8), receiver.trace(by_kafka, least=8)
            assert {span.service for span in asked} == {"headrace-gateway"}
            assert {span.name for span in asked} >= {"door", "call", f"ask {MODEL}--v1", "replica", "engine"}
            assert {span.service for span in taken} == {"headrace-stream"}
            root = next(span for span in taken if span.parent == "00f067aa0ba902b7")
            assert dict(answered[1])["traceparent"] == f"00-{by_kafka}-{root.span}-01".encode()
            assert {span.name for span in taken} >= {"batch", "decode", "score", "replica", f"commit {spec.output.topic}"}
        lines = machine.run("logs", "--json", "--lines", "1000").stdout.splitlines()
        told = [json.loads(line) for line in lines]
        ours = [one for one in told if "message" in one]
        assert {one["of"].split()[0] for one in ours if "has started" in one["message"]} == {
            "controller",
            "gateway",
            MODEL,
            "stream",
        }
        of_replica = [one for one in ours if one["of"].startswith(f"{MODEL} version 1")]
        assert {(one["model"], one["version"]) for one in of_replica} == {(MODEL, 1)}
        assert all({"time", "level", "logger", "of", "node"} <= one.keys() for one in ours)
        assert {one["stream"] for one in ours if one["of"].startswith("stream scores")} <= {"scores"}
        shown: subprocess.CompletedProcess[str] = machine.run("logs", "--lines", "1000")
        assert not any(line.partition("| ")[2].startswith("{") for line in shown.stdout.splitlines())
        assert machine.run("down").returncode == 0
