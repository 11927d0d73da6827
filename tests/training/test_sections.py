import pytest

from optimx.training.errors import InputError
from optimx.training.resolve import resolve_data, resolve_model, resolve_schedule
from optimx.training.sections import Data, Model, Schedule, build_section
from optimx.training.settings import Setting


def build(section, **given):
    return build_section(
        section, {key: Setting(value, "file.toml") for key, value in given.items()}
    )


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "stepz", 3, r"\[train\] has no key stepz; did you mean steps\?"),
        ("train", "steps", 0, r"train\.steps = 0: must be at least 1"),
        ("train", "steps", "many", r"train\.steps = 'many': must be an integer"),
        ("train", "steps", 2.5, r"train\.steps = 2\.5: must be an integer"),
        ("train", "steps", True, r"train\.steps = True: must be an integer"),
        ("train", "clip_norm", -1.0, r"train\.clip_norm = -1\.0: must be at least 0"),
        ("train", "clip_norm", "x", r"train\.clip_norm = 'x': must be a number"),
        ("train", "precision", "float8", "must be one of float32, bfloat16"),
        ("train", "seed", -1, "must be from 0 to 4294967295"),
        ("model", "preset", "huge", "must be one of tiny, small, medium, large, xl"),
        ("model", "bias", 1, r"model\.bias = 1: must be true or false"),
        ("model", "vocab", 0, "must be from 1 to 1048576"),
        ("schedule", "final", 1.5, "must be from 0 to 1"),
        ("data", "validation", 0, "must be above 0 and below 1"),
        ("data", "validation", 1.0, "must be above 0 and below 1"),
        ("data", "path", 3, r"data\.path = 3: must be text"),
        ("checkpoint", "keep", 0, "must be at least 1"),
    ],
)
def test_a_bad_key_or_value_is_named_with_what_is_allowed(section, key, value, message):
    with pytest.raises(InputError, match=message) as caught:
        build(section, **{key: value})
    assert str(caught.value).startswith("file.toml: ")


def test_nan_is_in_no_range():
    with pytest.raises(InputError, match="must be at least 0"):
        build("train", clip_norm=float("nan"))


def test_a_whole_number_will_do_where_a_number_is_wanted():
    clip_norm = build("train", clip_norm=2).clip_norm
    assert (clip_norm, type(clip_norm)) == (2.0, float)


def test_what_is_given_wins_over_the_preset():
    model = resolve_model(build("model", preset="small", layers=2, bias=False))
    assert model == Model("small", 2, 12, 768, 1024, 50257, False)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"model\.heads = 5: must divide .* = 128"):
        resolve_model(Model(heads=5))


def test_warmup_and_decay_follow_the_length_of_the_run():
    assert resolve_schedule(Schedule(), 50).warmup == 5
    stable = resolve_schedule(Schedule("warmup_stable_decay"), 50)
    assert (stable.warmup, stable.decay) == (5, 10)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(warmup=9), r"schedule\.warmup = 9: must be below train\.steps = 9"),
        (Schedule("warmup_stable_decay", 5, 5), r"schedule\.decay = 5: .* fit into"),
        (Schedule("cosine", 1, 5), "only warmup_stable_decay has a decay"),
    ],
)
def test_a_schedule_that_does_not_fit_the_run(schedule, message):
    with pytest.raises(InputError, match=message):
        resolve_schedule(schedule, 9)


def test_sequences_are_as_long_as_the_model_allows_or_shorter():
    model = resolve_model(Model())
    assert resolve_data(Data(), model).context == 128
    assert resolve_data(Data(context=7), model).context == 7
    message = r"data\.context = 129: must be at most the model's context, 128"
    with pytest.raises(InputError, match=message):
        resolve_data(Data(context=129), model)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(source="text"), r'data\.path = "": must name text files'),
        (Data(source="bin"), r'data\.path = "": must name token files'),
        (Data(dtype="uint32"), r"data\.dtype = 'uint32': only bin has it, .* stdlib"),
        (
            Data(source="text", path="a", validation_path="b"),
            r"data\.validation_path = 'b': only bin has it, .* text",
        ),
    ],
)
def test_keys_that_do_not_fit_the_source(data, message):
    with pytest.raises(InputError, match=message):
        resolve_data(data, resolve_model(Model()))
