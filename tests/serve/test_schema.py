"""Valid and invalid requests that schemathesis generates from the OpenAPI document: no 5xx, and no hang."""

import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from served import listening

pytestmark = pytest.mark.slow

EXAMPLES = 60  # of each route, in each of the two modes
SECONDS = 10.0  # time limit of one response


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_breaks_the_server_or_hangs(loaded, mode):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    wanted = schemathesis.GenerationMode(mode)
    seen: dict[str, set[int]] = {}
    with listening(list(loaded.values())) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()
            if mode == "negative" and operation.method == "get":
                continue

            @given(case=operation.as_strategy(generation_mode=wanted))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case):
                began = time.monotonic()
                answer = case.call(timeout=SECONDS)
                assert answer.status_code < 500, (case.as_curl_command(), answer.text)
                assert time.monotonic() - began < SECONDS
                if answer.status_code >= 400:
                    assert answer.json().keys() in ({"error", "error_type"}, {"message", "code", "type"})
                seen.setdefault(case.formatted_path, set()).add(answer.status_code)

            ask()
    assert len(seen) > 15
    if mode == "positive":
        assert sum(200 in statuses for statuses in seen.values()) > 12, seen


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "inputs",
    "input",
    "texts",
    "query",
    "documents",
    "ids",
    "queries",
    "model",
    "truncate",
    "parameters",
    "top_k",
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["/embed", "/predict", "/rerank", "/similarity", "/decode", "/v2/embed", "/score", "/answers"]),
       st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))  # fmt: skip
def test_fields_with_anything_in_them_are_answered(client, path, body):
    import json

    answer = client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
