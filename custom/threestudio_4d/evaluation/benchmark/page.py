"""The page of ``report.html`` as a Jinja template; :mod:`.layout` fills it in."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:; media-src 'self' file: data:">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 75ch; }
.soft { color: #666; }
.bad { color: #a3200d; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
thead th { border-bottom: 2px solid #bbb; font-weight: 600; }
tr.baseline td { color: #666; }
td.wide { white-space: normal; min-width: 20ch; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.5rem; align-items: flex-start; }
.row > * { max-width: 100%; }
svg, video, img { max-width: 100%; height: auto; }
video, .sheet { border: 1px solid #ddd; background: #fff; }
pre { background: #f6f6f6; padding: .7rem .9rem; overflow-x: auto; font-size: 12.5px; line-height: 1.45; }
summary { cursor: pointer; }
</style>
</head>
<body>
{%- macro score_table(table) %}
<div class="scroll"><table>
<thead><tr><th scope="col">method</th>
{%- for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr class="{{ row.kind }}"><td>{{ row.name }}</td>
{%- for cell in row.cells %}<td{% if cell.text == 'failed' %} class="bad"{% endif %}>
{%- if cell.best %}<b>{{ cell.text }}</b>{% else %}{{ cell.text }}{% endif %}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- endmacro %}
<header>
<h1>{{ title }}</h1>
<p>{{ summary }}{% if failures %} <a class="bad" href="#failed">What failed</a>{% endif %}</p>
<p class="soft">{{ date }}, commit {{ commits | join(", ") }}, {{ made_with.gpus | join(", ") or made_with.cpu }}</p>
</header>

<h2>Means</h2>
{{ score_table(means) }}
<p class="soft">{{ arrows }}</p>
{%- for note in notes %}
<p>{{ note }}</p>
{%- endfor %}

<h2>Side by side</h2>
<div class="row">
{%- for item in comparisons %}
<section>
<h3>{{ item.name }}</h3>
{%- if item.problem %}
<p class="bad">{{ item.problem }}</p>
{%- endif %}
{%- if item.video %}
<video src="{{ media(item.video) }}" autoplay loop muted playsinline controls></video>
{%- endif %}
{%- if item.sheet %}
<details{% if not item.video %} open{% endif %}><summary>stills
{%- if item.video %}, and the files <a href="{{ item.video }}">{{ item.video }}</a>{% endif %}
 <a href="{{ item.sheet }}">{{ item.sheet }}</a></summary>
<img class="sheet" src="{{ media(item.sheet) }}" loading="lazy"
 alt="columns: {{ item.columns | join(', ') }}; rows: {{ item.views | join(', ') }}, at three times"></details>
{%- endif %}
</section>
{%- endfor %}
</div>

<h2>By object</h2>
<div class="row">{% for chart in charts %}<div>{{ drawing(chart) }}</div>{% endfor %}</div>
<div class="row">
{%- for table in tables %}
<section><h3>{{ table.title }}</h3>
{{ score_table(table) }}</section>
{%- endfor %}
</div>

{% if curves -%}
<h2>Training</h2>
<div class="row">{% for chart in curves %}<div>{{ drawing(chart) }}</div>{% endfor %}</div>
{%- endif %}

<h2 id="runs">Runs</h2>
<div class="scroll"><table class="text">
<thead><tr><th>run</th><th>status</th><th>seconds</th><th>starts</th><th>device</th><th>host</th></tr></thead>
<tbody>
{%- for run in runs %}
<tr><td>{{ run.id }}</td><td{% if run.status == 'failed' %} class="bad"{% endif %}>{{ run.status }}</td>
<td>{{ run.seconds }}</td><td>{{ run.starts }}</td><td>{{ run.device }}</td><td>{{ run.host }}</td></tr>
{%- endfor %}
</tbody></table></div>

{% if failures -%}
<h2 id="failed">Failed runs</h2>
{%- for run in failures %}
<h3>{{ run.id }}</h3>
<p class="bad">{{ run.reason }}</p>
{%- if run.log_tail %}
<details><summary>last lines of <a href="{{ run.log }}">{{ run.log }}</a></summary>
<pre>{{ run.log_tail | join("\n") }}</pre></details>
{%- endif %}
{%- endfor %}
{%- endif %}

<h2>How it was made</h2>
<p>Protocol {{ protocol.name }}{% if protocol.record %} (version {{ protocol.record.protocol_version }}):
{{ protocol.record.size }} x {{ protocol.record.size }}, {{ protocol.record.background }}, {{ protocol.record.resize }}
{%- endif %}; input: view {{ protocol["input view"] }} of each object.</p>
<div class="scroll"><table class="text">
<thead><tr><th>metric</th><th>id</th><th>definition</th></tr></thead><tbody>
{%- for metric in protocol.metrics %}
<tr><td>{{ metric.title }}</td><td>{{ metric.id }}</td><td class="wide">{{ metric.definition }}</td></tr>
{%- endfor %}
</tbody></table></div>
<div class="scroll"><table class="text"><tbody>
{%- for key, value in facts %}
<tr><td>{{ key }}</td><td class="wide">{{ value }}</td></tr>
{%- endfor %}
</tbody></table></div>
<div class="scroll"><table class="text">
<thead><tr><th>method</th><th>SHA-256 of its frames</th><th>of the truth</th></tr></thead><tbody>
{%- for name, digests in protocol.sha256.items() %}
<tr><td>{{ name }}</td><td>{{ digests.predicted }}</td><td>{{ digests.truth }}</td></tr>
{%- endfor %}
</tbody></table></div>
<details><summary>what the evaluator recorded of the first method</summary>
<pre>{{ protocol.record | pretty }}</pre></details>
<details open><summary>the benchmark</summary><pre>{{ spec | pretty }}</pre></details>
<p class="soft">All of it as data: <a href="results.json">results.json</a>.</p>
</body>
</html>
"""
