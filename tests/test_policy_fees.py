"""What costs fees beside tokens: plugins, server tools and files are bounded, or refused by name."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import Malformed, UnsupportedField
from farebox.policy import DEFAULT_WEB_RESULTS, MAX_WEB_RESULTS, Extras, extras_of, media_parts
from tests.test_policy import PLAIN, refused

FREE_FILES = Extras(parses_files_free=True)
FUNCTION = {"type": "function", "function": {"name": "f"}}
SEARCH = {"type": "openrouter:web_search"}
ENGINES: list[object] = ["mistral-ocr", "Native", "", "new", None, 1, True, ["native"], {}]

# Plugins.


@pytest.mark.parametrize("name", ["response-healing", "context-compression", "auto-router", "auto-beta-router"])
def test_a_plugin_without_a_fee_is_no_extra(name: str) -> None:
    assert extras_of({"plugins": [{"id": name, "enabled": True}]}) == PLAIN


@pytest.mark.parametrize(
    "name", ["web-fetch", "fusion", "moderation", "pareto-router", "Web", "WEB", " web", "", "new"]
)
def test_a_plugin_whose_cost_is_unknown_is_refused(name: str) -> None:
    error = refused({"plugins": [{"id": "response-healing"}, {"id": name}]})
    assert (type(error), error.facts) == (UnsupportedField, {"field": "plugins"})
    assert f'the plugin "{name}" is not supported' in error.message


def test_a_plugin_that_is_switched_off_is_none() -> None:
    off = [{"id": name, "enabled": False} for name in ("web", "fusion", "file-parser")]
    assert extras_of({"plugins": off}) == extras_of({"plugins": []}) == PLAIN


@pytest.mark.parametrize("enabled", ["false", "true", 0, 1, [], {}])
def test_a_plugin_is_on_or_off_and_nothing_between(enabled: object) -> None:
    error = refused({"plugins": [{"id": "file-parser", "enabled": enabled, "pdf": {"engine": "native"}}]})
    assert (type(error), error.message) == (Malformed, 'enabled of the plugin "file-parser" must be true or false')


@pytest.mark.parametrize("first", [{}, {"enabled": False}, {"enabled": True}])
def test_a_plugin_that_is_there_twice_could_mean_either(first: dict[str, Any]) -> None:
    free = {"id": "file-parser", "pdf": {"engine": "native"}}
    error = refused({"plugins": [{"id": "file-parser", **first}, free]})
    assert (type(error), error.message) == (Malformed, 'the plugin "file-parser" is there twice')


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ({"id": "web"}, "plugins must be a list"),
        ("web", "plugins must be a list"),
        (False, "plugins must be a list"),
        (["web"], "each of plugins must be an object with an id"),
        ([{}], "each of plugins must be an object with an id"),
        ([{"id": None}], "each of plugins must be an object with an id"),
        ([{"id": ["web"]}], "each of plugins must be an object with an id"),
        ([None], "each of plugins must be an object with an id"),
    ],
    ids=str,
)
def test_plugins_of_the_wrong_shape_are_refused(plugins: object, says: str) -> None:
    error = refused({"plugins": plugins})
    assert (type(error), error.message) == (Malformed, says)


# Web search and server tools: they cost fees, which only an allowance bounds (candidates.py).


@pytest.mark.parametrize(
    ("members", "results"),
    [
        ({"plugins": [{"id": "web"}]}, DEFAULT_WEB_RESULTS),
        ({"plugins": [{"id": "web", "max_results": 3}]}, 3),
        ({"plugins": [{"id": "web", "max_results": None}]}, DEFAULT_WEB_RESULTS),
        ({"plugins": [{"id": "web", "max_results": MAX_WEB_RESULTS}]}, MAX_WEB_RESULTS),
        ({"plugins": [{"id": "web", "enabled": None}]}, DEFAULT_WEB_RESULTS),
        ({"web_search_options": {}}, DEFAULT_WEB_RESULTS),
        ({"web_search_options": {"max_results": 30}}, 30),
        ({"web_search_options": "high"}, DEFAULT_WEB_RESULTS),
        ({"web_search_options": False}, DEFAULT_WEB_RESULTS),
        ({"plugins": [{"id": "web", "max_results": 3}], "web_search_options": {"max_results": 30}}, 30),
    ],
    ids=str,
)
def test_a_web_search_is_seen_with_its_most_results(members: Mapping[str, Any], results: int) -> None:
    assert extras_of(members) == Extras(web_results=results)


@pytest.mark.parametrize(
    ("tools", "results"),
    [
        ([SEARCH], DEFAULT_WEB_RESULTS),
        ([{"type": "web_search"}], DEFAULT_WEB_RESULTS),
        ([{"type": "openrouter:web_fetch"}, FUNCTION], DEFAULT_WEB_RESULTS),
        ([{"type": "openrouter:datetime"}], DEFAULT_WEB_RESULTS),
        ([{**SEARCH, "parameters": {"max_results": 40}}], 40),
        ([{**SEARCH, "parameters": None}], DEFAULT_WEB_RESULTS),
        ([{"type": "web_search", "max_results": 40}], 40),
        ([{"type": "web_search", "max_results": 4, "parameters": {"max_results": 50}}, SEARCH], 50),
    ],
    ids=str,
)
def test_a_server_tool_is_seen_with_its_most_results(tools: list[Any], results: int) -> None:
    assert extras_of({"tools": tools}) == Extras(web_results=results, has_server_tools=True)


@pytest.mark.parametrize("results", [0, -1, MAX_WEB_RESULTS + 1, True, "10", 1.5, [10], {}])
def test_max_results_out_of_range_are_refused_wherever_they_stand(results: object) -> None:
    for members in (
        {"plugins": [{"id": "web", "max_results": results}]},
        {"tools": [{**SEARCH, "parameters": {"max_results": results}}]},
        {"tools": [{"type": "web_search", "max_results": results}]},
        {"web_search_options": {"max_results": results}},
    ):
        error = refused(members)
        assert isinstance(error, Malformed)
        assert error.message == f"max_results of a web search must be a whole number from 1 to {MAX_WEB_RESULTS}"


def test_a_search_that_is_billed_by_what_it_finds_is_refused() -> None:
    for members in (
        {"plugins": [{"id": "web", "x_search": {}}]},
        {"tools": [{**SEARCH, "parameters": {"x_search": {}}}]},
        {"tools": [{"type": "web_search", "x_search": {}}]},
    ):
        assert (type(error := refused(members)), error.facts) == (UnsupportedField, {"field": "x_search"})
    assert extras_of({"plugins": [{"id": "web", "x_search": None}]}).web_results == DEFAULT_WEB_RESULTS


@pytest.mark.parametrize(
    "kind",
    [
        "openrouter:image_generation", "openrouter:fusion", "openrouter:advisor", "openrouter:subagent",
        "openrouter:shell", "openrouter:bash", "openrouter:apply_patch", "openrouter:tool_search", "openrouter:files",
        "openrouter:experimental__search_models", "web_search_preview", "web_search_preview_2025_03_11",
        "web_search_2025_08_26", "web_search_20250305", "code_interpreter", "mcp", "Function", "FUNCTION", " function",
        "openrouter:Web_Search", "openrouter:web_search ", "", 1, None, True, ["function"], {"function": 1},
    ],
    ids=str,
)  # fmt: skip
def test_any_other_tool_that_is_no_function_is_refused(kind: object) -> None:
    error = refused({"tools": [FUNCTION, {"type": kind}]})
    assert (type(error), error.facts) == (UnsupportedField, {"field": "tools"})


def test_a_tool_without_a_type_is_refused() -> None:
    assert refused({"tools": [{"function": {"name": "f"}}]}).facts == {"field": "tools"}


def test_functions_are_no_extra() -> None:
    assert extras_of({"tools": [FUNCTION, FUNCTION]}) == extras_of({"tools": []}) == PLAIN


@pytest.mark.parametrize("kind", ["openrouter:web_search", "web_search", "web_search_preview", "new", 1, ["function"]])
def test_a_choice_does_not_bring_in_a_tool(kind: object) -> None:
    for tools in (None, [], [FUNCTION], [{"type": "openrouter:datetime"}]):
        error = refused({"tools": tools, "tool_choice": {"type": kind}})
        assert (type(error), error.facts) == (UnsupportedField, {"field": "tool_choice"})


@pytest.mark.parametrize(
    "choice",
    ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}, {"type": "allowed_tools"}, {}],
)
def test_a_choice_among_functions_is_no_extra(choice: object) -> None:
    assert extras_of({"tools": [FUNCTION], "tool_choice": choice}) == PLAIN


def test_a_choice_may_be_a_server_tool_that_is_there() -> None:
    assert extras_of({"tools": [SEARCH], "tool_choice": SEARCH}).has_server_tools


# Content.


def count(content: object, extras: Extras = PLAIN, **members: Any) -> int:
    return media_parts({"role": "user", "content": content, **members}, extras)


@pytest.mark.parametrize("engine", ["native", "cloudflare-ai", "pdf-text"])
def test_files_pass_with_an_engine_that_costs_no_fee_a_page(engine: str) -> None:
    extras = extras_of({"plugins": [{"id": "file-parser", "pdf": {"engine": engine}}]})
    assert extras == FREE_FILES
    assert count([{"type": "file"}, {"type": "text"}, {"type": "file"}], extras) == 2


@pytest.mark.parametrize(
    "plugin",
    [
        {}, {"pdf": None}, {"pdf": {}}, {"pdf": "native"}, {"pdf": ["native"]}, {"engine": "native"},
        *({"pdf": {"engine": engine}} for engine in ENGINES),
    ],
    ids=str,
)  # fmt: skip
def test_files_are_refused_with_any_other_engine(plugin: dict[str, Any]) -> None:
    extras = extras_of({"plugins": [{"id": "file-parser", **plugin}]})
    assert extras == PLAIN
    with pytest.raises(UnsupportedField, match="files are supported only with an engine that costs no fee") as found:
        count([{"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}], extras)
    assert found.value.facts == {"field": "messages"}


def test_files_are_refused_where_their_free_engine_is_switched_off() -> None:
    free = {"id": "file-parser", "pdf": {"engine": "native"}}
    with pytest.raises(UnsupportedField):
        count([{"type": "file"}], extras_of({"plugins": [{**free, "enabled": False}]}))


@pytest.mark.parametrize(
    "kind", ["input_file", "document", "image", "Image_url", "image_url ", "tool_result", "", "new"]
)
def test_content_of_an_unknown_type_is_refused_by_its_type(kind: str) -> None:
    with pytest.raises(UnsupportedField) as found:
        count([{"type": "text"}, {"type": kind}], FREE_FILES)
    assert found.value.message == f'content of type "{kind}" is not supported: its cost cannot be bounded'


@pytest.mark.parametrize("content", [7, True, {}, {"type": "image_url"}])
def test_content_is_text_or_a_list(content: object) -> None:
    with pytest.raises(Malformed, match="a message's content must be text or a list of parts"):
        count(content)


@pytest.mark.parametrize("part", ["text", None, [], {}, {"type": None}, {"type": ["text"]}, {"type": {}}])
def test_a_part_is_an_object_with_a_type(part: object) -> None:
    with pytest.raises(Malformed, match="each part of a message's content must be an object with a type"):
        count([part])


@given(
    st.lists(st.sampled_from(["text", "refusal", "reasoning", "thinking"])),
    st.lists(st.sampled_from(["image_url", "input_audio", "video_url", "input_video", "file"])),
    st.none() | st.lists(st.just({}), max_size=3) | st.just({"id": "a"}),
)
def test_every_part_that_is_not_text_counts_and_so_does_what_an_assistant_replays(
    texts: list[str], media: list[str], replayed: object
) -> None:
    parts = [{"type": kind} for kind in (*texts, *media)]
    images = len(replayed) if isinstance(replayed, list) else int(replayed is not None)
    assert count(parts, FREE_FILES, images=replayed) == count(parts, FREE_FILES, audio=replayed) == len(media) + images
