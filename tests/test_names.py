"""The sentence about a name that nobody knows."""

from secateur.names import unknown_name


def test_the_nearest_name_or_all_or_some_of_many() -> None:
    assert unknown_name("criterion", "l11", ("l1", "fpgm")) == "unknown criterion 'l11'; did you mean 'l1'?"
    assert unknown_name("criterion", "zzz", ("l1", "fpgm")) == "unknown criterion 'zzz'; choose one of: fpgm, l1"
    many = [f"layer{number:02}.select" for number in range(55)]
    assert unknown_name("selection", "zzz", many) == (
        "unknown selection 'zzz'; there are 55, such as layer00.select, layer01.select, layer02.select, layer03.select"
    )
    every, useful = ("conv1", "layer1.0.conv1", "layer1.0.conv2"), ("layer1.0.conv1", "layer1.0.conv2")
    assert unknown_name("layer", "conv11", every).endswith("did you mean 'conv1'?")
    assert unknown_name("layer", "conv11", every, rather=useful).endswith("did you mean 'layer1.0.conv1'?")
    assert unknown_name("layer", "conv2", every, rather=["x"]).endswith("did you mean 'conv1'?")  # no other is near
    assert unknown_name("layer", "stage*", every, rather=useful).endswith("one of: layer1.0.conv1, layer1.0.conv2")
    assert unknown_name("selection", "zzz", ()) == "unknown selection 'zzz'; there is none"
