"""The content of a report as Markdown, and as one HTML file that opens from disk and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from .page import PAGE

#: videos and sheets are inside the page while all of them together stay below this; the rest is linked
EMBED_BYTES = 40_000_000

ARROWS = "↑ more is better, ↓ less is better; the best of each column is bold."


def html_page(content: Mapping[str, Any], out: Path, embed_bytes: int = EMBED_BYTES) -> str:
    """The page; every text in it is escaped, drawings and videos of ``out`` are part of it.

    Args:
        content: as :func:`.report.write_report` collects it.
        out: folder of the videos and sheets.
        embed_bytes: above this size of all of them the page links them instead.
    """
    files = [entry[key] for entry in content["comparisons"] for key in ("video", "sheet") if entry[key]]
    embed = sum((out / path).stat().st_size for path in files) <= embed_bytes

    def media(path: str) -> str:
        if not embed:
            return path
        kind = "video/mp4" if path.endswith(".mp4") else "image/jpeg"
        return f"data:{kind};base64,{base64.b64encode((out / path).read_bytes()).decode()}"

    def drawing(chart: Mapping[str, str]) -> Markup:
        return Markup(chart["svg"])  # made by charts.py, which escapes names

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["pretty"] = _pretty
    template = environment.from_string(PAGE)
    return template.render(**content, arrows=ARROWS, facts=_facts(content), media=media, drawing=drawing)


def markdown_page(content: Mapping[str, Any]) -> str:
    """The same as Markdown, with pictures beside it."""
    made_with = content["made_with"]
    machine = ", ".join(made_with["gpus"]) or made_with["cpu"]
    lines = [f"# {plain(content['title'])}", "", plain(content["summary"]), ""]
    lines += [plain(f"{content['date']}, commit {', '.join(content['commits'])}, {machine}"), "", "## Means", ""]
    lines += [*_score_table(content["means"]), "", ARROWS, ""]
    lines += [line for note in content["notes"] for line in (plain(note), "")]
    lines += ["## Side by side", ""]
    for item in content["comparisons"]:
        lines += [f"### {plain(item['name'])}", ""]
        lines += [plain(item["problem"]), ""] if item["problem"] else []
        shown = plain(f"columns: {', '.join(item['columns'])}; rows: {', '.join(item['views'])}")
        lines += [f"[video]({item['video']}); {shown}" if item["video"] else shown, ""]
        lines += [f"![stills]({item['sheet']})", ""] if item["sheet"] else []
    lines += ["## By object", ""]
    lines += [line for chart in content["charts"] for line in (f"![{plain(chart['name'])}]({chart['path']})", "")]
    for table in content["tables"]:
        lines += [f"### {plain(table['title'])}", "", *_score_table(table), ""]
    if content["curves"]:
        lines += ["## Training", ""]
        lines += [line for chart in content["curves"] for line in (f"![{plain(chart['name'])}]({chart['path']})", "")]
    keys = ("id", "status", "seconds", "starts", "device", "host")
    rows = [[run[key] for key in keys] for run in content["runs"]]
    lines += ["## Runs", "", *_table(["run", *keys[1:]], rows), ""]
    if content["failures"]:
        lines += ["## Failed runs", ""]
        for run in content["failures"]:
            lines += [f"### {plain(run['id'])}", "", plain(run["reason"]), ""]
            lines += [*(f"    {line}" for line in run["log_tail"]), ""]
    protocol = content["protocol"]
    lines += ["## How it was made", ""]
    record = protocol["record"]
    how = f" (version {record['protocol_version']}): {record['size']} x {record['size']}" if record else ""
    lines += [plain(f"Protocol {protocol['name']}{how}; input: view {protocol['input view']} of each object."), ""]
    metrics = [[metric[key] for key in ("title", "id", "definition")] for metric in protocol["metrics"]]
    lines += [*_table(["metric", "id", "definition"], metrics), ""]
    digests = [[name, found["predicted"], found["truth"]] for name, found in protocol["sha256"].items()]
    lines += [*_table(["method", "SHA-256 of its frames", "of the truth"], digests), ""]
    lines += [*_table(["", ""], _facts(content)), ""]
    lines += [*(f"    {line}" for line in _pretty(content["spec"]).splitlines()), ""]
    return "\n".join(lines)


def plain(value: Any) -> str:
    """Text of one line in which Markdown and HTML see nothing of their own."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", text)


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of machine and code, a line each."""
    made_with = content["made_with"]
    facts = [("commit", ", ".join(content["commits"]))]
    facts += [(key, str(made_with[key])) for key in ("command", "cpu", "system") if made_with.get(key)]
    facts += [("GPUs", ", ".join(made_with["gpus"]))] if made_with["gpus"] else []
    facts.append(("versions", ", ".join(f"{name} {number}" for name, number in made_with["versions"].items())))
    return facts


def _score_table(table: Mapping[str, Any]) -> list[str]:
    rows = []
    for row in table["rows"]:
        cells = [f"**{plain(cell['text'])}**" if cell["best"] else plain(cell["text"]) for cell in row["cells"]]
        rows.append([plain(row["name"]), *cells])
    return _lines([plain(column) for column in ("method", *table["columns"])], rows)


def _table(header: list[str], rows: list[Any]) -> list[str]:
    return _lines([plain(cell) for cell in header], [[plain(cell) for cell in row] for row in rows])


def _lines(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
