"""The table of terms: which weight applies, what is skipped, and what a wrong table says."""

import pytest
import torch
from omegaconf import OmegaConf

from threestudio_4d.errors import UserError
from threestudio_4d.objective.weights import LossWeights, Overall, PerLevel, select_levels


def build(section, n_levels=2, step=0):
    def schedule(value):
        if isinstance(value, (int, float)):
            return value
        start, first, last, end = value
        return first + (last - first) * min(max((step - start) / (end - start), 0), 1)

    return LossWeights(OmegaConf.create(section), schedule, n_levels, ("rgb", "vif"), ("orient",))


COMPLETE = {"lambda_rgb": 500, "lambda_vif_0": 1.0, "lambda_vif_1": 2.0, "lambda_orient": [0, 1, 21, 100]}


def test_a_scalar_holds_for_all_levels_and_a_level_key_wins():
    weights = build({**COMPLETE, "lambda_rgb_1": 200})
    assert [weights("rgb", 0), weights("rgb", 1), weights("vif", 1)] == [500, 200, 2]


def test_schedules_pass_through():
    assert build(COMPLETE, step=50)("orient") == pytest.approx(11.0)


def test_terms_without_weight_are_not_computed():
    asked = []

    def rgb(levels):
        asked.append(levels)
        return torch.tensor([10.0 * level for level in levels])

    def never():
        raise AssertionError("computed a term of weight 0")

    weights = build({"lambda_rgb_0": 0, "lambda_rgb_1": 3, "lambda_vif": 0, "lambda_orient": 0})
    table = weights.evaluate({"rgb": PerLevel(rgb), "vif": PerLevel(lambda levels: never()), "orient": Overall(never)})
    assert asked == [[1]]
    assert [(entry.name, entry.value.item(), entry.weight) for entry in table] == [("rgb_1", 10.0, 3.0)]


def test_ever_positive_looks_at_whole_schedules():
    late = build({**COMPLETE, "lambda_vif_0": 0, "lambda_vif_1": [10, 0.0, 5.0, 20]})
    assert late.ever_positive("vif")
    assert not build({**COMPLETE, "lambda_vif_0": 0, "lambda_vif_1": 0}).ever_positive("vif")


def test_select_levels():
    stacked = torch.arange(6.0).view(3, 2)
    assert select_levels(stacked, [0, 1, 2]) is stacked
    assert select_levels(stacked, [0, 2]).tolist() == [[0, 1], [4, 5]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda_vif_1": None}, "no weight for the term 'vif' at level 1 (the geometry has 2 levels): give "
         "system.loss.lambda_vif_1, or system.loss.lambda_vif for all levels"),
        ({"lambda_orient": None}, "system.loss.lambda_orient is missing"),
        ({"lambda_rbg": 1}, "unknown key system.loss.lambda_rbg. Did you mean 'lambda_rgb'?"),
        ({"lambda_orient_0": 1}, "unknown key system.loss.lambda_orient_0"),
    ],
)  # fmt: skip
def test_a_wrong_table_teaches(change, message):
    section = {key: value for key, value in {**COMPLETE, **change}.items() if value is not None}
    with pytest.raises(UserError) as raised:
        build(section)
    assert message in str(raised.value)
