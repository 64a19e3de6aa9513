"""Benchmark files: what they expand to, and what is said about mistakes in them."""

import pytest
import yaml
from bench_maker import write_data

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.benchmark.spec import Changes, make_jobs, make_spec, read_spec


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    (tmp_path / "a.yaml").write_text("name: a\n")
    return tmp_path


def write(folder, **changes):
    content = {"data": "data", "configs": ["a.yaml"], **changes}
    (folder / "bench.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not ...}))
    return folder / "bench.yaml"


def test_every_config_object_and_seed_is_a_run_of_its_own(folder):
    configs = ["a.yaml", {"name": "no loss", "path": "a.yaml", "overrides": ["x=0"]}]
    spec = read_spec(write(folder, configs=configs, seeds=[0, 3], overrides=["y=1"]), Changes(overrides=["z=2"]))
    jobs = make_jobs(spec, folder / "out", folder / "launch.py", threads=2)
    assert [job.id for job in jobs][:4] == ["a/cat-s0", "a/cat-s3", "a/dog-s0", "a/dog-s3"]
    assert len(jobs) == 8 and jobs[4].id == "no_loss/cat-s0"
    command = list(jobs[-1].command)
    assert command[1:5] == [str(folder / "launch.py"), "--config", str(folder / "a.yaml"), "--train"]
    assert {"name=no_loss", "tag=dog-s3", "seed=3", "use_timestamp=false", "y=1", "z=2", "x=0"} <= set(command)
    assert f"data.image_seq_path={folder}/data/dog/ref" in command
    assert command.index("y=1") < command.index("z=2") < command.index("x=0")  # the special wins over the common
    assert jobs[-1].folder == str(folder / "out" / "runs" / "no_loss" / "dog-s3")


def test_the_short_form_is_the_same_benchmark(folder):
    spec = make_spec(["a.yaml"], Changes("data", ["dog"], [1], overrides=["x=1"]))
    assert spec.name == "a-data" and spec.data.objects == ["dog"] and spec.baselines == ["copy", "mirror"]
    assert [job.id for job in make_jobs(spec, folder, folder)] == ["a/dog-s1"]


def test_the_command_line_replaces_what_the_file_says(folder):
    write_data(folder / "other", ("cow",))
    path = write(folder, data={"root": "data", "objects": ["cat"], "input": "ref"}, evaluation="consistent4d")
    spec = read_spec(path, Changes("other", seeds=[4], metrics=["psnr"]))
    assert spec.data.objects == ["cow"] and spec.seeds == [4]
    assert (spec.evaluation.protocol, spec.evaluation.metrics) == ("consistent4d", ["psnr"])
    assert read_spec(path, Changes(objects=["dog"])).data.objects == ["dog"]


def test_paths_are_found_beside_the_benchmark_file(folder, monkeypatch):
    path = write(folder)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert read_spec(path).data.root == folder / "data"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": []}, "unknown key 'config'. Did you mean 'configs'? Valid keys: name, data, configs, seeds"),
        ({"configs": ...}, "the key 'configs' is missing"),
        ({"configs": []}, "'configs' is empty"),
        ({"configs": "a.yaml"}, "'configs' must be a list; it is 'a.yaml'"),
        ({"configs": ["b.yaml"]}, "'configs[0].path': there is no b.yaml (looked in "),
        (
            {"configs": [{"path": "a.yaml", "overide": []}]},
            "'configs[0].overide'. Did you mean 'configs[0].overrides'?",
        ),
        ({"configs": [{"name": "a"}]}, "the key 'configs[0].path' is missing. Valid keys: name, path, overrides"),
        ({"configs": ["a.yaml", "a.yaml"]}, "must differ, also as folders: 'a' and 'a'"),
        ({"configs": [{"path": "a.yaml", "name": "copy"}]}, "'copy' and 'copy'"),
        ({"overrides": {"x": 1}}, "'overrides' must be a list of key=value"),
        ({"overrides": ["x: 1"]}, "'overrides' must be a list of key=value"),
        ({"overrides": ["seed=3"]}, "seed is set for every run by the runner; use seeds"),
        ({"seeds": ["one"]}, "'seeds' must be a list of whole numbers"),
        ({"seeds": 3}, "'seeds' must be a list; it is 3"),
        ({"baselines": ["zero"]}, "'baselines' has 'zero'; valid are: copy, mirror"),
        ({"data": {"root": "nowhere"}}, "'data.root': there is no nowhere"),
        ({"data": {"root": "data", "input": "front"}}, "has no object with a view 'front'"),
        ({"data": {"root": "data", "objects": ["cog"]}}, "has no object 'cog' with a view 'ref'. Did you mean"),
        ({"data": {"root": "data", "object": ["cat"]}}, "'data.object'. Did you mean 'data.objects'?"),
        ({"results": [{"name": "x"}]}, "the key 'results[0].folder' is missing"),
        ({"evaluation": "none"}, "'evaluation': there is no protocol 'none'; choose from"),
        ({"evaluation": {"metrics": ["psrn"]}}, "'evaluation': there is no metric 'psrn'"),
        ({"evaluation": {"metric": ["psnr"]}}, "'evaluation.metric'. Did you mean 'evaluation.metrics'?"),
        ({"evaluation": {"fvd_network": "i3d.pt"}}, "'evaluation.fvd_network': there is no i3d.pt"),
    ],
)
def test_mistakes_are_named(folder, changes, message):
    with pytest.raises(UserError) as caught:
        read_spec(write(folder, **changes))
    assert message in str(caught.value)


def test_files_that_are_no_benchmark(folder):
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "broken.yaml").write_text("a: [1\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe")
    for name, message in (
        ("list.yaml", "must be a mapping"),
        ("broken.yaml", "cannot be read"),
        ("binary.yaml", "cannot be read"),
        ("lst.yaml", "list.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            read_spec(folder / name)
