"""The page of a run on a GPU machine, from invented reports."""

import json
from dataclasses import asdict, replace

import pytest

from modernbert.bench.cuda import Ceilings, CudaReport, Product
from modernbert.bench.gpu_report import BEGIN, END, read_results, render, update_page, write_results
from modernbert.bench.loop import LoopReport
from modernbert.bench.profiling import summarize
from modernbert.bench.report import BASELINE, OURS, Entry, Result, write_report
from modernbert.bench.timing import Speed
from modernbert.errors import DataError

SPEED = Speed(1_600_000.0, 1_500_000.0, 1_700_000.0)
MACHINE = {"device": "NVIDIA Card", "device memory": "80 GiB", "torch": "2.11", "cores": "16", "transformers": "5.17"}
RESULT = Result(
    "64 x 512", 64, None, 32_768, 1e12, Speed(6e14, 5e14, 7e14),
    (
        Entry(OURS, "bf16", 0.004, None, 300 << 20, SPEED, 2.75, 0.61),
        Entry(BASELINE, "bf16", 0.01, None, 900 << 20, SPEED, 1.0, 0.2),
        Entry("engine", "fp32", None, "it broke"),
    ),
)  # fmt: skip
REPORT = CudaReport(
    "inference", "base", "bf16", 16, 5, MACHINE, {"packed-encoders": "pip install it"}, (RESULT,), "NVIDIA Card", 1,
    Ceilings(Product(8192, 8192, 8192, 7.81e14), (), 4.14e12),
    {"64 x 512": summarize([("void cutlass::Kernel2<tensorop<1, 2>>(Params)", 60.0, 2), ("a|b", 40.0, 1)])},
)  # fmt: skip
LOOP = LoopReport("28m", "bf16", MACHINE, "NVIDIA Card", 32_768, 512, 100, SPEED, replace(SPEED, median=2e6), 0.8, 9.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "json").mkdir()
    write_report(REPORT, tmp_path / "json" / "inference.json")
    write_report(LOOP, tmp_path / "json" / "loop-28m.json")
    stages = [{"name": "tests", "status": "failed (1)", "seconds": 61, "note": "1 failed, 197 passed"}]
    (tmp_path / "json" / "stages.json").write_text(json.dumps({"stages": stages}))
    return tmp_path / "json"


def test_the_page_names_the_device_and_has_a_table_for_each_report(folder):
    text = render(read_results(folder))
    assert text.startswith(
        "Measured on: **NVIDIA Card** (device memory 80 GiB, torch 2.11, transformers 5.17, cores 16)."
    )
    assert "| 64 x 512 | modernbert | 1,600,000 (1,500,000 to 1,700,000) | 2.75 x | 61% | 4.0e-03 | 300 MiB |" in text
    assert "| 64 x 512 | engine, fp32 | not ranked |  |  | it broke |  |" in text
    assert "Not measured: packed-encoders, pip install it" in text
    assert "Linear layers alone, TFLOP/s: 64 x 512: 600.0." in text
    assert "| 28m | 32,768 | 512 | 2,000,000 (1,500,000 to 1,700,000) | 1,600,000" in text
    assert "| 80.0% | 100 |" in text
    assert "| tests | failed (1) | 61 | 1 failed, 197 passed |" in text


def test_kernels_are_listed_without_their_template_arguments_and_left_out_in_brief(folder):
    head = "Profile of 64 x 512: 0.10 ms in kernels per pass; products 60%, attention 0%, the rest 40%."
    text, brief = render(read_results(folder)), render(read_results(folder), brief=True)
    assert head in text
    assert "| cutlass::Kernel2 | products | 0.060 | 2 | 60.0% |" in text
    assert "| a/b | the rest |" in text  # a bar would end the cell
    assert head in brief
    assert "cutlass" not in brief


def test_merged_reports_equal_the_reports_of_the_folder(folder, tmp_path):
    write_results(read_results(folder), tmp_path / "gpu.json")
    assert read_results(tmp_path / "gpu.json") == read_results(folder)
    assert render(read_results(folder / "inference.json")) == render({"inference": asdict(REPORT)})


def test_new_tables_replace_only_the_old_tables(tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(f"# GPUs\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    update_page(page, "new\n")
    update_page(page, "newer\n")
    assert page.read_text() == f"# GPUs\n\n{BEGIN}\nnewer\n{END}\n\nMore.\n"
    page.write_text("# GPUs\n")
    with pytest.raises(DataError, match="needs the lines"):
        update_page(page, "new")


def test_a_file_that_is_not_a_report_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"There is no report in .*; run `runs/gpu\.sh check`"):
        read_results(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="is not a report in JSON"):
        read_results(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_text("[]")
    with pytest.raises(DataError, match="not a JSON object"):
        read_results(tmp_path)
