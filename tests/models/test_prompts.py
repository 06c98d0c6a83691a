"""Chat templates as people have them: with switches, without a system role, many, broken, hostile."""

from __future__ import annotations

import copy
import json
import logging
import time

import pytest

from skippy.errors import CheckpointError
from skippy.models.loading import load_tokenizer
from skippy.models.prompts import (
    conversation,
    opened_thought,
    prepare_messages,
    prompt_ids,
    render_prompt,
    takes_system,
    template_arguments,
    template_without_thinking,
)

SWITCH = "{% if enable_thinking is defined and not enable_thinking %}quiet{% endif %}"
REFUSING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_template(tokenizer, template):
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    return made


def saved(tokenizer, folder, template):
    """A directory as people have it, with a template that `save_pretrained` did not look at."""
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    return folder


def test_thinking_is_switched_off_where_there_is_a_switch(tokenizer):
    assert template_arguments(tokenizer) == {}
    thinker = with_template(tokenizer, tokenizer.chat_template + SWITCH)
    assert template_arguments(thinker) == {"enable_thinking": False}
    assert render_prompt(thinker, conversation("hm")).endswith("<assistant>quiet")


@pytest.mark.parametrize("start", ["", "\n", "  {%- set x = 1 %}"])
def test_a_program_that_passes_no_arguments_renders_the_same(tokenizer, start):
    thinker = with_template(tokenizer, start + tokenizer.chat_template + SWITCH)
    expected = render_prompt(thinker, conversation("hm"))
    thinker.chat_template = template_without_thinking(thinker)
    alone = thinker.apply_chat_template(conversation("hm"), add_generation_prompt=True, tokenize=False)
    assert alone == expected
    insisting = thinker.apply_chat_template(
        conversation("hm"), add_generation_prompt=True, tokenize=False, enable_thinking=True
    )
    assert insisting == expected


def test_a_word_in_a_comment_is_no_switch(tokenizer):
    assert template_arguments(with_template(tokenizer, "{# enable_thinking #}{{ messages }}")) == {}


@pytest.mark.parametrize("template", [REFUSING, FORGETFUL])
def test_without_a_system_role_the_text_goes_before_the_users_and_that_is_said_once(
    tokenizer, template, caplog
):
    mistral = with_template(tokenizer, template + "{# a cache of its own: " + str(time.time()) + " #}")
    with caplog.at_level(logging.INFO):
        texts = [render_prompt(mistral, conversation("why?", "be brief.")) for _ in range(3)]
    assert set(texts) == {"<user>be brief.\n\nwhy?<end><assistant>"}
    assert caplog.text.count("no system role") == 1
    assert render_prompt(mistral, conversation("why?")) == "<user>why?<end><assistant>"


def test_a_system_role_is_used_where_there_is_one(tokenizer):
    """The twin."""
    asked = conversation("why?", "be brief.")
    assert takes_system(tokenizer)
    assert prepare_messages(tokenizer, asked) == asked
    assert render_prompt(tokenizer, asked) == "<system>be brief.<end><user>why?<end><assistant>"


def test_a_conversation_that_the_template_refuses_is_one_message(tokenizer):
    picky = with_template(
        tokenizer, "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}x"
    )
    with pytest.raises(CheckpointError, match="one at a time") as refusal:
        render_prompt(picky, [*conversation("a"), {"role": "assistant", "content": "b"}])
    assert "user, assistant" in refusal.value.expected


def test_prompt_ids_are_the_tokens_of_the_rendered_text(tokenizer):
    asked = conversation("why?", "be brief.")
    expected = tokenizer(render_prompt(tokenizer, asked), add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, asked) == tuple(expected)


@pytest.mark.parametrize(
    ("ending", "tag"),
    [("<think>\n", "<think>"), ("[THINK]", "[THINK]"), ("<think></think>\n", ""), ("", "")],
)
def test_the_tag_that_a_template_left_open(ending, tag):
    assert opened_thought("<assistant>" + ending) == tag


def test_several_named_templates_need_a_default(tokenizer, tmp_path):
    named = [{"name": name, "template": tokenizer.chat_template} for name in ("rag", "tool_use")]
    with pytest.raises(CheckpointError, match="none is the default") as refusal:
        load_tokenizer(saved(tokenizer, tmp_path / "a", named))
    assert refusal.value.found == "rag, tool_use"
    usable = [*named, {"name": "default", "template": tokenizer.chat_template + SWITCH}]
    loaded = load_tokenizer(saved(tokenizer, tmp_path / "b", usable))
    assert render_prompt(loaded, conversation("hm")).endswith("quiet")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% for m in messages %}{{ m.content }}", "TemplateSyntaxError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ nothing.here }}", "'nothing' is undefined"),
        ("{{ 'a' * 10 ** 11 }}", "fills the memory"),
        ("{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}", "memory"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% if i > 9 ** 9 %}x{% endif %}"
            "{% endfor %}{% endfor %}",
            "it does not end within",
        ),
    ],
)  # fmt: skip
def test_a_broken_or_hostile_template_is_one_message_at_loading(tokenizer, tmp_path, template, found):
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="chat template cannot be used") as refusal:
        load_tokenizer(saved(tokenizer, tmp_path / "model", template))
    assert found in refusal.value.found
    assert str(tmp_path / "model") in refusal.value.where
    assert time.monotonic() - began < 60


def test_a_template_marked_for_training_loads(tokenizer, tmp_path):
    """`generation` and `break` are transformers' extensions of the language."""
    marked = (
        "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{{ m|tojson(indent=2) }}{% endfor %}{{ strftime_now('%Y') }}"
    )
    assert load_tokenizer(saved(tokenizer, tmp_path / "model", marked)).chat_template == marked
