from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from modernbert.config import Config, dump, load, parse
from modernbert.errors import ConfigError


class Inner(Config):
    rate: float = 1e-3
    name: str | None = None


class Outer(Config):
    steps: int = 1
    folder: Path = Path("here")
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict)


@given(
    st.builds(
        Outer,
        steps=st.integers(-(2**60), 2**60),
        inner=st.builds(Inner, rate=st.floats(-3e38, 3e38), name=st.none() | st.text()),
        named=st.dictionaries(st.text(), st.builds(Inner, rate=st.floats(-1e6, 1e6))),
    )
)
def test_a_dumped_config_loads_as_an_equal_value(config):
    import tomllib

    assert parse(Outer, tomllib.loads(dump(config)), "dump") == config


def write(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("override", "value"),
    [("inner.rate=5e-4", 5e-4), ("inner.rate = 2", 2.0)],
)
def test_overrides_are_toml(tmp_path, override, value):
    assert load(Outer, write(tmp_path, "[inner]\nrate = 1.0"), [override]).inner.rate == value


def test_a_bare_word_needs_no_quotes_in_an_override(tmp_path):
    assert load(Outer, write(tmp_path, ""), ["folder=out/x", "inner.name=hello"]).folder == Path("out/x")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stpes = 2", [], r"stpes is not a known key; did you mean 'steps'\?"),
        ("[named.a]\nxyzzy = 1", [], r"named.a.xyzzy is not a known key\.$"),
        ("[named.a]\nraet = 1", [], "named.a.raet is not a known key; did you mean 'named.a.rate'"),
        ("steps = 'many'", [], "steps: .*integer.*'many'"),
        ("steps = = 2", [], "cannot be read as TOML"),
        ("", ["steps"], "not of the form section.key=value"),
        ("", ["=2"], "not of the form section.key=value"),
        ("steps = 2", ["steps.x=1"], "goes through 'steps'"),
        ("", ["inner.raet=1"], "inner.raet is not a known key; did you mean 'inner.rate'"),
        ("rate = 1", [], r"rate is not a known key; did you mean 'inner.rate' or 'named.NAME.rate'\?$"),
        (
            "[named.abc]",
            ["named.abd.rate=1"],
            r"names 'abd', but the recipe has abc in \[named\]; did you mean 'named.abc'",
        ),
        ("[named.abc]", ["named.xyz.rate=1"], r"names 'xyz', but the recipe has abc in \[named\]\.$"),
        ("", ["named.abc.rate=1"], r"names 'abc', but the recipe has nothing in \[named\]\.$"),
        ("", ["inner.stesp=1"], r"inner.stesp is not a known key; did you mean 'steps'\?$"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(Outer, write(tmp_path, text), overrides)
    assert "\n" not in str(error.value)


def test_overrides_extend_a_value_given_as_a_bare_string():
    class File(Config):
        bare_key = "path"
        path: str
        limit: int | None = None

    class Files(Config):
        one: File
        more: dict[str, File | None] = Field(default_factory=dict)

    assert parse(Files, {"one": "x"}, "here", ["one.limit=3"]).one == File(path="x", limit=3)
    assert parse(Files, {"one": "x"}, "here", ["one.path=y"]).one == File(path="y")
    assert parse(Files, {"one": "x"}, "here", ["one=z", "one.limit=3"]).one == File(path="z", limit=3)
    assert parse(Files, {"one": Path("x")}, "here") == Files(one=File(path="x"))
    both = {"one": "x", "more": {"a": "y"}}
    assert parse(Files, both, "here", ["more.a.limit=3"]).more == {"a": File(path="y", limit=3)}
    assert parse(Files, both, "here", ["more.a=z"]).more == {"a": File(path="z")}
    with pytest.raises(ConfigError, match=r"one\.path: .*string"):
        parse(Files, {"one": {"path": {"path": "x"}}}, "here")


def test_a_misspelt_key_is_reported_instead_of_the_missing_required_one():
    class Needy(Config):
        tokenizer: str

    with pytest.raises(ConfigError, match="tokeniser is not a known key; did you mean 'tokenizer'"):
        parse(Needy, {"tokeniser": "x"}, "recipe.toml")
    with pytest.raises(ConfigError, match=r"^recipe.toml: tokenizer is required\.$"):
        parse(Needy, {}, "recipe.toml")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe .*none\.toml"):
        load(Outer, tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "binary.toml"):
        with pytest.raises(ConfigError, match="cannot be read as TOML"):
            load(Outer, path)


def test_a_config_cannot_be_written_into():
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 3


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e308", "1e39"])
def test_a_number_outside_fp32_is_refused(value, tmp_path):
    with pytest.raises(ConfigError, match=r"rate"):
        load(Outer, write(tmp_path, f"[inner]\nrate = {value}\n"))


@pytest.mark.parametrize("value", ["1e308", "9223372036854775808", "-9223372036854775808.0e3", "inf"])
def test_a_count_above_64_bits_is_refused(value, tmp_path):
    with pytest.raises(ConfigError, match=r"steps"):
        load(Outer, write(tmp_path, f"steps = {value}\n"))
    assert load(Outer, write(tmp_path, "steps = 9223372036854775807\n")).steps == 2**63 - 1


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    assert load(Outer, write(tmp_path, "\ufeffsteps = 3\n")).steps == 3


@pytest.mark.parametrize("text", ["steps = " + "[" * 5000, "a" + ".a" * 5000 + " = 1", "steps = " + "9" * 5000, "\0"])
def test_a_recipe_that_is_too_deep_or_too_long_is_one_sentence(text, tmp_path):
    with pytest.raises(ConfigError):
        load(Outer, write(tmp_path, text))


@pytest.mark.parametrize("override", ["a" + ".a" * 5000 + "=1", "steps=" + "[" * 5000, "steps=" + "9" * 5000])
def test_an_override_that_is_too_deep_or_too_long_is_one_sentence(override, tmp_path):
    with pytest.raises(ConfigError) as error:
        load(Outer, write(tmp_path, ""), [override])
    assert len(str(error.value)) < 12_000


def test_an_override_sets_one_key_alone(tmp_path):
    assert load(Outer, write(tmp_path, ""), ["inner.name=1\nb=2"]).inner.name == "1\nb=2"


@pytest.mark.parametrize("path", ["", ".", "a\0b", "a" * 5000])
def test_a_path_that_is_not_a_file_is_one_sentence(path):
    with pytest.raises(ConfigError):
        load(Outer, path)


def test_a_mistake_of_the_complete_config_is_reported_without_a_key():
    class Whole(Config):
        @model_validator(mode="after")
        def _check(self):
            raise ValueError("nothing fits")

    with pytest.raises(ConfigError, match=r"^config\.json: nothing fits\.$"):
        parse(Whole, {}, "config.json")


@pytest.mark.parametrize("key", ["\n", "a\x00", "\ud800", "\r\n"])
def test_an_unprintable_key_is_reported_on_one_line(key):
    with pytest.raises(ConfigError, match=r"\\") as error:
        parse(Outer, {"inner": {key: 1}}, "x")
    assert str(error.value).isprintable()
