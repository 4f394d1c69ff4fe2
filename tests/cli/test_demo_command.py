from pathlib import Path

from cli_command import forked, spawn

from secateur.record import read_record


def test_the_demo_keeps_its_promise(tmp_path: Path) -> None:
    """Half of the multiply-adds, within one point of the dense network, and an ONNX file that agrees everywhere."""
    ran = spawn("demo", "--threads", "1", cwd=tmp_path)
    assert ran.code == 0, ran.err
    record = read_record(tmp_path / "secateur-demo" / "record.json")
    dense, tuned, onnx = (record.measurements[key] for key in ("dense", "tuned", "onnx"))
    assert dense.macs is not None
    assert tuned.macs is not None
    assert tuned.macs <= 0.5 * dense.macs
    assert dense.test is not None
    assert tuned.test is not None
    assert onnx.test is not None
    assert tuned.test.top1 >= dense.test.top1 - 0.01
    assert onnx.test.top1 == tuned.test.top1
    assert record.agreement is not None
    assert record.agreement.equal == record.agreement.samples == tuned.test.samples == 359
    assert record.agreement.max_difference < 1e-4
    again = forked("demo", "--threads", "1", cwd=tmp_path)
    assert again.code == 0
    assert "complete already" in again.out
