import json
from dataclasses import asdict, replace

import pytest

from modernbert.bench.report import (
    BASELINE,
    OURS,
    Entry,
    Report,
    Result,
    agreeing,
    compare_reports,
    read_report,
    write_report,
)
from modernbert.bench.timing import Speed
from modernbert.errors import ConfigError, DataError

SPEED = Speed(100.0, 90.0, 110.0)


def result(workload, ratio, tokens=64):
    entries = (
        Entry(OURS, "bf16", 0.01, None, 5, SPEED if ratio else None, ratio, 0.5 if ratio else None),
        Entry(BASELINE, "bf16", 0.01, None, 5, SPEED, 1.0, 0.5),
        Entry("engine", "fp32", None, "it broke"),
    )
    return Result(workload, 1, None, tokens, 1e9, SPEED, entries)


def report(*results, **changes):
    made = Report(
        benchmark="inference",
        model="base",
        dtype="bf16",
        threads=2,
        rounds=5,
        machine={"features": "AVX2", "processor": "one"},
        missing={"openvino": "pip install it"},
        results=results or (result("short", 1.5), result("long", 3.0)),
    )
    return replace(made, **changes)


def test_a_report_goes_to_json_and_back(tmp_path):
    write_report(report(), tmp_path / "new" / "report.json")
    assert read_report(tmp_path / "new" / "report.json") == report()
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == json.loads(json.dumps(asdict(report())))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"benchmark": "scaling"}'])
def test_a_file_that_is_not_a_report_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json is not a report; write one with --output"):
        read_report(tmp_path / "x.json")


def test_nothing_got_slower_within_the_tolerance():
    found = compare_reports(report(), report(result("short", 1.36), result("long", 9.0)), 0.1)
    assert found.slower == ()
    assert [(change.before, change.after) for change in found.changes] == [(1.5, 1.36), (3.0, 9.0)]


def test_works_that_got_slower_are_named():
    found = compare_reports(report(), report(result("short", 1.34), result("long", 3.0)), 0.1)
    assert found.slower == ("short",)
    assert compare_reports(report(), report(result("short", 1.34), result("long", 3.0)), 0.2).slower == ()


def test_one_that_is_not_ranked_any_more_counts_as_slower():
    found = compare_reports(report(), report(result("short", 1.5), result("long", None)), 0.1)
    assert found.slower == ("long",)
    assert found.changes[1].after is None


def test_ratios_are_compared_and_seconds_are_not():
    slow = Speed(1.0, 0.9, 1.1)
    day = report()
    night = replace(
        day,
        results=tuple(
            replace(each, entries=tuple(replace(e, tokens_per_second=slow) for e in each.entries))
            for each in day.results
        ),
    )
    assert compare_reports(day, night, 0.0).slower == ()


def test_only_engines_of_the_package_are_compared():
    day = report()
    faster = tuple(
        replace(each, entries=(*each.entries[:2], Entry("engine", "fp32", 0.0, None, None, SPEED, 9.0, 0.1)))
        for each in day.results
    )
    assert compare_reports(replace(day, results=faster), day, 0.1).slower == ()


def test_works_of_one_report_alone_are_named():
    found = compare_reports(report(), report(result("short", 1.5), result("long", 3.0, tokens=65)), 0.1)
    assert [change.workload for change in found.changes] == ["short"]
    assert found.not_compared == ("long",)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"benchmark": "training"}, "the benchmark"),
        ({"model": "large"}, "the model"),
        ({"dtype": "fp32"}, "the dtype"),
        ({"threads": 1}, "the number of threads"),
        ({"machine": {"features": "AVX2, AVX-512", "processor": "one"}}, "what the processor can do"),
        ({"results": (result("other", 1.0),)}, "have no workload in common"),
    ],
)
def test_reports_of_different_settings_are_refused(changes, what):
    with pytest.raises(DataError, match=what):
        compare_reports(report(), report(**changes), 0.1)


def test_another_processor_with_the_same_instructions_is_compared():
    other = report(machine={"features": "AVX2", "processor": "two"})
    assert compare_reports(report(), other, 0.1).slower == ()


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_a_tolerance_is_a_part(tolerance):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        compare_reports(report(), report(), tolerance)


def test_rounding_decides_who_agrees():
    assert agreeing({BASELINE: 0.0, OURS: 9e-5, "off": 2e-4, "broken": None}) == {BASELINE, OURS}
    assert agreeing({BASELINE: 0.01, OURS: 0.024, "off": 0.026}) == {BASELINE, OURS}
    assert agreeing({BASELINE: 0.15, OURS: 0.09, "off": 0.11}) == {BASELINE, OURS}  # too much for rounding
    assert agreeing({BASELINE: 0.21, OURS: 0.09}) == {OURS}


def test_a_report_with_the_names_of_earlier_versions_is_read(tmp_path):
    write_report(report(), tmp_path / "new.json")
    text = (tmp_path / "new.json").read_text()
    old_names = {"engine": "contestant", "workload": "work", "roofline_fraction": "share_of_floor"}
    for name, old in old_names.items():
        assert f'"{name}":' in text
        text = text.replace(f'"{name}":', f'"{old}":')
    (tmp_path / "old.json").write_text(text)
    assert read_report(tmp_path / "old.json") == report()
