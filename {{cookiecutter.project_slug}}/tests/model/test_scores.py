"""Do scores and intervals say what they claim?"""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from flight_delays.errors import InputError
from flight_delays.scores import interval, resample, resampled, scores, threshold

COSTS = {"false_negative": 3.0, "false_positive": 1.0}


def test_the_first_score_decides_and_points_the_right_way() -> None:
    truth, good, bad = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.8, 0.2, 0.1])
    for task, classes in (("binary", (False, True)), ("regression", ())):
        for score in scores(task, classes, COSTS):
            assert score.sign * (score.function(truth, good) - score.function(truth, bad)) > 0, score.name
    outputs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    for score in scores("multiclass", ("a", "b", "c")):
        truth = np.array([0.0, 1, 2])
        assert score.sign * (score.function(truth, outputs) - score.function(truth, outputs[::-1])) > 0, score.name


def test_the_threshold_is_where_both_decisions_cost_the_same() -> None:
    at = threshold(COSTS)
    assert at * COSTS["false_negative"] == pytest.approx((1 - at) * COSTS["false_positive"])
    with pytest.raises(InputError, match=r"evaluate\.costs"):
        threshold({"false_negative": 1.0})


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    random = np.random.default_rng(0)
    auc = scores("binary", (False, True), COSTS)[0]
    truth = 0.7602  # of two normal distributions one standard deviation apart: Φ(1 / √2)
    hits = 0
    for trial in range(100):
        y = (random.random(200) < 0.4).astype(float)
        output = random.normal(y)
        draws = resample(y, 60, trial, stratified=True)
        found = interval(roc_auc_score(y, output), resampled(auc, y, output, draws), 0.9)
        hits += found.low <= truth <= found.high
    assert 80 <= hits <= 98  # 90 expected; about 1 in 500 healthy runs lies outside, and the seed is fixed


def test_a_stratified_resample_keeps_the_number_of_rows_of_each_class() -> None:
    y = np.array([0.0] * 50 + [1.0])
    assert all(y[draw].sum() == 1 for draw in resample(y, 20, 0, stratified=True))
    assert any(y[draw].sum() != 1 for draw in resample(y, 20, 0, stratified=False))
