import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.errors import ConfigError
from modernbert.stream.mixture import cap_repeats

SOURCES = ("web", "books", "code")


def test_weights_are_unchanged_if_no_source_exceeds_the_limit():
    shares = cap_repeats({"web": 3, "code": 1}, {"web": 1000, "code": 1000}, 1000, max_repeats=1)
    assert shares == pytest.approx({"web": 0.75, "code": 0.25})


def test_other_sources_replace_a_small_source_by_their_weights():
    tokens = {"web": 10_000, "books": 10_000, "code": 25}
    shares = cap_repeats({"web": 2, "books": 1, "code": 1}, tokens, 1000, max_repeats=4)
    assert shares == pytest.approx({"web": 0.6, "books": 0.3, "code": 0.1})


def test_a_source_that_reaches_its_limit_as_a_replacement_is_capped():
    tokens = {"web": 10_000, "books": 300, "code": 50}
    shares = cap_repeats({"web": 1, "books": 1, "code": 2}, tokens, 1000, max_repeats=1)
    assert shares == pytest.approx({"web": 0.65, "books": 0.3, "code": 0.05})


def test_sources_that_are_too_small_in_total_are_refused():
    with pytest.raises(ConfigError, match="max_repeats"):
        cap_repeats({"web": 1, "code": 1}, {"web": 100, "code": 100}, 1000, max_repeats=4)


@given(
    st.fixed_dictionaries({name: st.floats(0.01, 10) for name in SOURCES}),
    st.fixed_dictionaries({name: st.integers(1, 10_000) for name in SOURCES}),
    st.floats(0.5, 5),
)
def test_shares_sum_to_one_and_respect_the_limits(weights, tokens, max_repeats):
    phase = int(max_repeats * sum(tokens.values()) * 0.9) + 1
    if phase > max_repeats * sum(tokens.values()):
        return
    shares = cap_repeats(weights, tokens, phase, max_repeats)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[name] * phase <= max_repeats * tokens[name] * (1 + 1e-9) for name in SOURCES)
