from featurestore.errors import unknown_name


def test_a_short_list_is_told_whole() -> None:
    assert str(unknown_name("task", "exp", ("v", "expr"))) == (
        "There is no task 'exp'. Did you mean 'expr'? Known: expr, v."
    )


def test_of_a_long_list_the_nearest_are_told() -> None:
    text = str(unknown_name("architecture", "vit_07", ["vit_7", *map(str, range(999))]))
    assert "Did you mean 'vit_7'? Known: 1,000, such as vit_7" in text
    assert len(text) < 200
