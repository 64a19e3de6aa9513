"""The benchmark runner: trains configs on clips with ground truth, evaluates them, writes a report.

``python -m threestudio_4d.evaluation.benchmark SPEC.yaml`` is described in ``docs/benchmarking.md``.

=================  ==========================================================================
``spec``           what to run: YAML or command line, checked, expanded into jobs
``runs``           one run as a process: state on disk, start, stop, resume
``schedulers``     one after the other, over GPUs or cores, through Ray
``runner``         which runs are still to do, and doing them
``progress``       the display
``scores``         methods and baselines against the truth, through the evaluator
``pictures``       side-by-side videos and contact sheets
``charts``         bar and line charts as SVG
``report``         report.md, report.html and results.json
=================  ==========================================================================
"""
