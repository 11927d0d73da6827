from optimx.training.errors import nearest


def test_a_near_name_is_offered_and_otherwise_all_are_listed():
    assert nearest("stepz", ["seed", "steps"]) == "; did you mean steps?"
    assert nearest("qqq", ["seed", "steps"]) == "; known: seed, steps"
