"""The reports of one run on a GPU machine, merged into one JSON document and written as tables in Markdown."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modernbert.bench.report import parse_json
from modernbert.errors import DataError
from modernbert.files import atomic_write

Results = dict[str, Any]  # the JSON of each stage's report by the stage's name; "stages" lists how each one ended

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_KINDS = ("ceilings", "inference", "training", "scaling", "attention", "loop", "pretrain")
_LONGEST_NAME = 90  # characters of a kernel's name


def collect(folder: Path) -> Results:
    """All `*.json` files of a folder, by their names without the suffix.

    Raises:
        DataError: there is no such file, or one is not a JSON object.
    """
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise DataError(f"There is no report in {folder}; run `runs/gpu.sh check`.")
    return found


def read_results(path: Path) -> Results:
    """A folder of reports, the merged file, or a single report.

    Raises:
        DataError: the path is none of these.
    """
    if path.is_dir():
        return collect(path)
    values = _read(path)
    return {path.stem: values} if "benchmark" in values else values


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{path} is not a report in JSON; write one with `runs/gpu.sh check` or --output.") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} is not a JSON object; write a report with `runs/gpu.sh check` or --output.")
    return values


def write_results(results: Results, path: Path) -> None:
    """Write the merged reports atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def update_page(page: Path, markdown: str) -> None:
    """Replace the text between the two markers of a page by these tables.

    Raises:
        DataError: the page does not have the markers.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise DataError(f"{page} needs the lines {BEGIN} and {END}, between which the tables are written.")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    with atomic_write(page) as partial:
        partial.write_text(f"{before}{BEGIN}\n{markdown.strip()}\n{END}{after}", encoding="utf-8")


def render(results: Results, *, brief: bool = False) -> str:
    """All reports as Markdown: the device, then a section for each benchmark, then the stages.

    With `brief`, the kernels of profiles and scaling are omitted.
    """
    parts = [_device(results)]
    sections = {kind: [(name, r) for name, r in results.items() if r.get("benchmark") == kind] for kind in _KINDS}
    for name, report in sections["ceilings"]:
        parts.append(_ceilings(name, report))
    for kind in ("inference", "training"):
        for name, report in sections[kind]:
            parts.append(_speeds(name, report, brief))
    if sections["loop"]:
        parts.append(_loops([report for _, report in sections["loop"]]))
    for _, report in sections["attention"]:
        parts.append(_attention(report))
    for _, report in [] if brief else sections["scaling"]:
        parts.append(_scaling(report))
    for _, report in sections["pretrain"]:
        parts.append(_resumed(report))
    if stages := results.get("stages", {}).get("stages"):
        rows = [(stage["name"], stage["status"], f"{stage['seconds']:.0f}", stage.get("note", "")) for stage in stages]
        parts.append("### Stages\n\n" + _table(("stage", "", "seconds", ""), rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _device(results: Results) -> str:
    machines = [report["machine"] for report in results.values() if isinstance(report.get("machine"), dict)]
    described = next((machine for machine in machines if "device" in machine), None)
    if described is None:
        return ""
    named = ("device memory", "compute capability", "CUDA", "torch", "transformers", "processor", "cores")
    transformers = next((machine["transformers"] for machine in machines if "transformers" in machine), None)
    values = described | ({"transformers": transformers} if transformers else {})
    details = ", ".join(f"{name} {values[name]}" for name in named if name in values)
    return f"Measured on: **{described['device']}** ({details})."


def _ceilings(name: str, report: Mapping[str, Any]) -> str:
    found = report["ceilings"]
    rows = [_product(found["square"]), *(_product(product) for product in found["shapes"])]
    rows.append(("copy, bytes read and written", f"{found['copy_bytes_per_second'] / 1e12:.2f} TB/s"))
    title = f"### {_section_title(name, 'Ceilings')}: {report['model']}, {report['tokens']:,} tokens"
    return f"{title}\n\n" + _table(("bf16 product, or copy", "speed"), rows)


def _product(product: Mapping[str, Any]) -> tuple[str, str]:
    sizes = f"{product['rows']:,} x {product['inner']:,} x {product['columns']:,}"
    return sizes, f"{product['flops_per_second'] / 1e12:,.0f} TFLOP/s"


def _speeds(name: str, report: Mapping[str, Any], brief: bool) -> str:
    on_device = f", on {report['device']}" if "device" in report else f", on the CPU, threads: {report['threads']}"
    title = (
        f"### {_section_title(name, report['benchmark'].capitalize())}: {report['model']}, {report['dtype']}{on_device}"
    )
    rows = []
    for result in report["results"]:
        for entry in result["entries"]:
            rows.append(
                (
                    result["workload"],
                    entry["engine"] + ("" if entry["computes"] == report["dtype"] else f", {entry['computes']}"),
                    _range(entry["tokens_per_second"]) if entry["tokens_per_second"] else "not ranked",
                    "" if entry["ratio"] is None else f"{entry['ratio']:.2f} x",
                    "" if entry["roofline_fraction"] is None else f"{entry['roofline_fraction']:.0%}",
                    entry["failure"] or "" if entry["error"] is None else f"{entry['error']:.1e}",
                    "" if entry["peak_bytes"] is None else f"{entry['peak_bytes'] / 2**20:,.0f} MiB",
                )
            )
    columns = (
        "workload", "engine", "tokens/s: median (range)", "to transformers", "of the roofline", "error", "peak memory",
    )  # fmt: skip
    parts = [title, _table(columns, rows)]
    if products := [
        f"{result['workload']}: {result['matrix_flops_per_second']['median'] / 1e12:,.1f}"
        for result in report["results"]
    ]:
        parts.append(f"Linear layers alone, TFLOP/s: {'; '.join(products)}.")
    parts += [f"Not measured: {peer}, {reason}" for peer, reason in report["missing"].items()]
    for workload, profile in report.get("profiles", {}).items():
        parts.append(profile_table(workload, profile).partition("\n")[0] if brief else profile_table(workload, profile))
    return "\n\n".join(parts)


def profile_table(workload: str, profile: Mapping[str, Any]) -> str:
    """A workload's profile (as JSON): the time shares of the kernel groups, and the longest kernels."""
    shares = ", ".join(f"{group} {share:.0%}" for group, share in profile["shares"].items())
    rows = [
        (
            _short(kernel["name"]),
            kernel["group"],
            f"{kernel['microseconds'] / 1e3:,.3f}",
            f"{kernel['launches']:,.0f}",
            f"{kernel['share']:.1%}",
        )
        for kernel in profile["kernels"]
    ]
    head = f"Profile of {workload}: {profile['microseconds'] / 1e3:,.2f} ms in kernels per pass; {shares}."
    return f"{head}\n\n" + _table(("kernel", "group", "ms", "launches", "share"), rows)


def _short(name: str) -> str:
    """A kernel's name without its template arguments, which are too long for a table."""
    name = re.sub(r"^void ", "", name)
    while (shorter := re.sub(r"<[^<>]*>|\([^()]*\)$", "", name)) != name:
        name = shorter
    return name.strip().replace("|", "/")[:_LONGEST_NAME]


def _loops(reports: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            report["model"],
            f"{report['batch_tokens']:,}",
            f"{report['max_length']:,}",
            _range(report["bare_tokens_per_second"]),
            _range(report["loop_tokens_per_second"]),
            f"{report['ratio']:.1%}",
            f"{report['steps']:,}",
        )
        for report in reports
    ]
    columns = ("model", "tokens per update", "row", "step alone, tokens/s", "`pretrain`, tokens/s", "ratio", "steps")
    return "### `pretrain` and the training step alone\n\n" + _table(columns, rows)


def _resumed(report: Mapping[str, Any]) -> str:
    return (
        f"`pretrain`, {report['model']}: stopped by a signal after step {report['stopped_at_step']:,}; the same "
        f"command continued to step {report['last_step']:,}. In all {report['seconds']:.0f} s, last loss "
        f"{report['last_loss']:.3f}, {report['tokens_per_second']:,.0f} tokens/s."
    )


def _attention(report: Mapping[str, Any]) -> str:
    rows = []
    for time in report["times"]:
        speeds = (
            (time["failure"] or "", "", "", "")
            if time["forward_seconds"] is None
            else (
                f"{1e3 * time['forward_seconds']:.3f}",
                f"{time['forward_flops_per_second'] / 1e12:,.0f}",
                f"{1e3 * time['both_seconds']:.3f}",
                f"{time['both_flops_per_second'] / 1e12:,.0f}",
            )
        )
        window = "global" if time["window"] is None else f"window {time['window']}"
        error = "" if time["error"] is None else f"{time['error']:.1e}"
        rows.append((f"{time['length']:,}", window, time["backend"], *speeds, error))
    columns = (
        "length", "", "backend", "forward, ms", "TFLOP/s", "forward + backward, ms", "TFLOP/s", "error",
    )  # fmt: skip
    title = f"### Attention: {report['tokens']:,} tokens, {report['heads']} heads of {report['head_dim']}, bf16"
    parts = [title, _table(columns, rows)]
    parts += [f"Not available: {name}, which {reason}" for name, reason in report["unavailable"].items()]
    return "\n\n".join(parts)


def _scaling(report: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{point['tokens']:,}",
            point["engine"],
            f"{point['cost']['median']:,.2f}" if point["cost"] else "not ranked",
        )
        for point in report["points"]
    ]
    return f"### One sequence: {report['model']}\n\n" + _table(("tokens", "engine", "microseconds per token"), rows)


def _section_title(name: str, kind: str) -> str:
    return kind if name == kind.lower() else f"{kind} ({name})"


def _range(speed: Mapping[str, float]) -> str:
    return f"{speed['median']:,.0f} ({speed['slowest']:,.0f} to {speed['fastest']:,.0f})"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)
