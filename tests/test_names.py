"""The sentence about a name that nobody knows."""

from secateur.names import unknown_name


def test_the_nearest_name_or_all_or_some_of_many() -> None:
    assert unknown_name("criterion", "l11", ("l1", "fpgm")) == "unknown criterion 'l11'; did you mean 'l1'?"
    assert unknown_name("criterion", "zzz", ("l1", "fpgm")) == "unknown criterion 'zzz'; choose one of: fpgm, l1"
    many = [f"layer{number:02}.select" for number in range(55)]
    assert unknown_name("selection", "zzz", many) == (
        "unknown selection 'zzz'; there are 55, such as layer00.select, layer01.select, layer02.select, layer03.select"
    )
    assert unknown_name("selection", "zzz", ()) == "unknown selection 'zzz'; there is none"
