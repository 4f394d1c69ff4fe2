"""Which groups a scan shows to be sensitive, and its file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from secateur.cost import kept_units
from secateur.errors import ArtifactError, UsageError
from secateur.measure import (
    SHARES,
    GroupSensitivity,
    Sensitivity,
    SensitivityPoint,
    read_sensitivity,
    sensitive_groups,
    write_sensitivity,
)
from secateur.record import Evaluation


def curve(name: str, *top1: float, loss: float = 1.0) -> GroupSensitivity:
    points = tuple(
        SensitivityPoint(
            share=share,
            kept=kept_units(10, share),
            macs_left=0.5,
            evaluation=Evaluation(loss=loss, top1=value, top5=1.0, samples=100),
        )
        for share, value in zip(SHARES[2::2], top1, strict=True)
    )
    return GroupSensitivity(name=name, size=10, tied=False, proof_error=0.0, points=points)


def made_up(*groups: GroupSensitivity) -> Sensitivity:
    return Sensitivity(
        model_class="Net",
        macs=100,
        criterion="l1",
        split="validation",
        shares=SHARES[2::2],
        dense=Evaluation(loss=0.1, top1=0.9, top5=1.0, samples=100),
        groups=groups,
        left_out={},
    )


def test_ranking_by_hand() -> None:
    # At the shares 0.3, 0.5, 0.7, 0.9 of a model of 90 %.
    flat, steep = curve("flat", 0.9, 0.9, 0.89, 0.4), curve("steep", 0.8, 0.7, 0.6, 0.5)
    better, twin = curve("better", 0.9, 0.92, 0.9, 0.9), curve("twin", 0.9, 0.7, 0.6, 0.5, loss=2.0)
    ranked = sensitive_groups(made_up(flat, steep, better, twin))
    assert [entry.group.name for entry in ranked] == ["twin", "steep", "flat", "better"]
    assert [entry.drop for entry in ranked] == pytest.approx([0.2, 0.2, 0.0, -0.02])
    assert [entry.mean_drop for entry in ranked] == pytest.approx([0.225, 0.25, 0.1275, -0.005])
    assert [entry.flat_until for entry in ranked] == [0.3, 0.0, 0.5, 0.9]
    named = [entry.group.name for entry in sensitive_groups(made_up(flat, steep), share=0.9, drop=0.45)]
    assert named == ["flat"]
    assert sensitive_groups(made_up(flat), tolerance=0.02)[0].flat_until == 0.7
    with pytest.raises(UsageError, match=r"the share 0.4 was not measured; choose one of 0.3, 0.5, 0.7, 0.9"):
        sensitive_groups(made_up(flat), share=0.4)


def test_a_scan_is_read_as_it_was_written(tmp_path: Path) -> None:
    scan = made_up(curve("one", 0.9, 0.8, 0.7, 0.6), curve("two", 0.9, 0.9, 0.9, 0.9))
    path = tmp_path / "sensitivity.json"
    broken = replace(scan.dense, loss=float("inf"))
    for original in (scan, replace(scan, dense=broken)):
        write_sensitivity(path, original)
        assert read_sensitivity(path) == original
        assert original.to_json() == json.loads(path.read_text())
    content = scan.to_json()
    for change, sentence in (
        ({"format": 2}, "has sensitivity scan format 2, but this version reads format 1"),
        ({"colour": "red"}, "is not a sensitivity scan: colour"),
        ({"macs": None}, "is not a sensitivity scan: macs"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ArtifactError, match=sentence):
            read_sensitivity(path)
    path.write_text("[")
    with pytest.raises(ArtifactError, match="is not a sensitivity scan"):
        read_sensitivity(path)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_sensitivity(tmp_path / "none.json")
