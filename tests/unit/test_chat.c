/* Chat templates: ChatML as the model's own template prints it, others told by their marks, the rest refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/real_model.h"
#include "tests/support/tiny_gguf.h"
#include "text/tokenizer.h"

#define BODY                                                                                                           \
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"             \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define DEFAULT "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"

static const chat_message user[] = {{"user", "Hi there"}};
static const chat_message whole[] = {{"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};

/* Opens a file with this template, or with none if it is NULL. */
static gguf *file_with(const char *template, uint8_t **bytes) {
    gguf_writer w = {0};
    gguf *g = NULL;
    size_t n;
    if (template) gguf_write_str(&w, "tokenizer.chat_template", template);
    *bytes = gguf_writer_finish(&w, &n);
    assert_int_equal(gguf_open_memory(*bytes, n, "chat.gguf", &g), OK);
    return g;
}

static void assert_renders(const char *template, const char *override, const chat_message *m, int n, bool open,
                           const char *want) {
    uint8_t *bytes;
    gguf *g = file_with(template, &bytes);
    char *text;
    if (chat_render(g, override, m, n, open, &text)) fail_msg("%s", err_text());
    assert_string_equal(text, want);
    mem_free(text);
    gguf_close(g);
    free(bytes);
}

static void assert_refused(const char *template, const char *override, err code, const char *fragment) {
    uint8_t *bytes;
    gguf *g = file_with(template, &bytes);
    char *text;
    err e = chat_render(g, override, user, 1, true, &text);
    if (e == OK) mem_free(text);
    assert_int_equal(e, code);
    if (!strstr(err_text(), fragment)) fail_msg("\"%s\" does not say \"%s\"", err_text(), fragment);
    gguf_close(g);
    free(bytes);
}

static void the_default_system_message_comes_first_when_none_is_given(void **state) {
    assert_renders(tiny_chat_template, NULL, user, 1, true,
                   DEFAULT "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
    assert_renders(tiny_chat_template, NULL, user, 1, false, DEFAULT "<|im_start|>user\nHi there<|im_end|>\n");
}

static void a_given_system_message_replaces_the_default(void **state) {
    assert_renders(tiny_chat_template, NULL, whole, 4, true,
                   "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                   "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
}

static void no_messages_give_no_default(void **state) {
    assert_renders(tiny_chat_template, NULL, NULL, 0, true, "<|im_start|>assistant\n");
    assert_renders(tiny_chat_template, NULL, NULL, 0, false, "");
}

static void the_default_is_the_one_in_the_template(void **state) {
    assert_renders("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                   "{{ '<|im_start|>system\\nIt\\'s me.<|im_end|>\\n' }}{% endif %}" BODY,
                   NULL, user, 1, false,
                   "<|im_start|>system\nIt's me.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n");
}

static void plain_chatml_has_no_default(void **state) {
    assert_renders("{% for message in messages %}" BODY, NULL, user, 1, true,
                   "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
    assert_renders("[INST] something else", "chatml", user, 1, true,
                   "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
    assert_renders(NULL, "chatml", user, 1, false, "<|im_start|>user\nHi there<|im_end|>\n");
}

static void other_templates_are_refused(void **state) {
    assert_refused(
        "[INST] {{ x }}\n[/INST]", NULL, ERR_UNSUPPORTED,
        "chat.gguf: the chat template beginning with `[INST] {{ x }} [/INST]` is not supported; supported are chatml, llama2, llama3, llama3.1, mistral, "
        "mistral-v1, mistral-v3, mistral-tekken, mistral-v7, gemma");
    assert_refused("{% for message in messages %}" BODY "{{ tools }}", NULL, ERR_UNSUPPORTED, "is not supported");
    assert_refused("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'x", NULL,
                   ERR_UNSUPPORTED, "is not supported");
    assert_refused("", NULL, ERR_UNSUPPORTED, "is not supported");
    assert_refused(NULL, NULL, ERR_UNSUPPORTED, "chat.gguf has no chat template");
    assert_refused(tiny_chat_template, "vicuna", ERR_USAGE, "chat template \"vicuna\" is unknown; supported are chatml, llama2");
    assert_refused("{{ eos_token }}'[SYSTEM_PROMPT]' + '[INST]' + ", NULL, ERR_UNSUPPORTED, "is not supported"); /* version 7, tekken */
    assert_refused("<|start_header_id|> Cutting Knowledge Date <|eot_id|>", NULL, ERR_UNSUPPORTED, "is not supported");
    assert_refused("{% if tools %}<|im_start|>{% if enable_thinking %}{{- '<think>\\n' }}", NULL, ERR_UNSUPPORTED, "is not supported");
    assert_refused("<|im_start|>{% if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n' }}", NULL, ERR_UNSUPPORTED, "is not");
    assert_refused("<<SYS>>{{ '[INST] ' + content }}{{ eos_token }}", NULL, ERR_UNSUPPORTED, "is not supported"); /* no BOS inside */
    assert_refused(NULL, "own", ERR_UNSUPPORTED, "chat.gguf has no chat template");
}

static void the_real_template_is_recognised(void **state) {
    const char *path = real_model_path();
    if (!path) skip();
    gguf *g;
    char *text;
    if (gguf_open(path, &g) || chat_render(g, NULL, user, 1, true, &text)) fail_msg("%s", err_text());
    assert_string_equal(text, DEFAULT "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
    mem_free(text);
    gguf_close(g);
}

static const chat_message talk[] = {{"system", "Be brief."}, {"user", " Hi there\n"}, {"assistant", "Hello "}, {"user", "Why?"}};

static void other_families_are_recognised_by_their_marks(void **state) {
    static const char *const llama3[] = {"{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>' }}{{ content | trim + '<|eot_id|>' }}", NULL};
    static const char *const gemma[] = {"{{ bos_token }}{{ '<start_of_turn>' + role }}{{ '<end_of_turn>\n' }}", NULL};
    static const char *const llama2[] = {"{{ '<<SYS>>' }}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{{ eos_token }}", NULL};
    static const char *const mistral[] = {"{{ bos_token }}{{ '[INST] ' + content + ' [/INST]' }}{{ content + eos_token }}", NULL};
    const char *names[] = {"llama3", "gemma", "llama2", "mistral", "mistral-v1", "mistral-v3", "mistral-tekken", "mistral-v7", "llama3.1"};
    const char *const templates[] = {
        *llama3, *gemma, *llama2, *mistral, "{{ ' [INST] ' + system_message }}{{ content + eos_token }}",
        "[AVAILABLE_TOOLS]{{ \"[INST] \" + content + \"[/INST]\" }}{{ eos_token }}",
        "[AVAILABLE_TOOLS]{{ \"[INST]\" + content + \"[/INST]\" }}{{ eos_token }}",
        "{{ '[INST] ' + content + '[/INST]' }}{{ '[SYSTEM_PROMPT] ' + content + '[/SYSTEM_PROMPT]' }}{{ eos_token }}",
        "{% set date_string = \"26 Jul 2024\" %}<|start_header_id|>{{ \"Cutting Knowledge Date: December 2023\n\" }}"
        "{{ \"Today Date: \" + date_string + \"\n\n\" }}<|eot_id|>"};
    const char *const want[] = {
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<start_of_turn>user\nBe brief.\n\nHi there<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n"
        "<start_of_turn>model\n",
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST] Hello </s><s>[INST] Why? [/INST]",
        "[INST] Be brief.\n\n Hi there\n [/INST]Hello </s>[INST] Why? [/INST]",
        " [INST] Be brief.\n\n Hi there\n [/INST] Hello </s> [INST] Why? [/INST]",
        "[INST]  Hi there\n[/INST] Hello</s>[INST] Be brief.\n\nWhy?[/INST]",
        "[INST] Hi there\n[/INST]Hello </s>[INST]Be brief.\n\nWhy?[/INST]",
        "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST]  Hi there\n[/INST] Hello </s>[INST] Why?[/INST]",
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    };
    for (int i = 0; i < 9; i++) {
        assert_renders(templates[i], NULL, talk, 4, true, want[i]);
        assert_renders(tiny_chat_template, names[i], talk, 4, true, want[i]);
    }
    assert_renders(templates[8], NULL, user, 1, false,
                   "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>");
    assert_renders("{% if tools %}<tool_call>{% endif %}<|im_start|>{% if enable_thinking is defined and enable_thinking is false %}", NULL, user, 1, true,
                   "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
    assert_renders("<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.", NULL, user, 1, false,
                   "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
                   "<|im_start|>user\nHi there<|im_end|>\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_system_message_comes_first_when_none_is_given),
        cmocka_unit_test(a_given_system_message_replaces_the_default),
        cmocka_unit_test(no_messages_give_no_default),
        cmocka_unit_test(the_default_is_the_one_in_the_template),
        cmocka_unit_test(plain_chatml_has_no_default),
        cmocka_unit_test(other_families_are_recognised_by_their_marks),
        cmocka_unit_test(other_templates_are_refused),
        cmocka_unit_test(the_real_template_is_recognised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
