/* Tasks build the records that their configuration says: windows of text, copies, haystacks; and refuse what cannot be.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/io.h"
#include "task/haystack.h"
#include "task/task_impl.h"
#include "tests/support/engines.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

static engine *e;
static text_source *text;

/* Words of random letters with all kinds of white space and marks between them. */
static char *make_text(size_t n) {
    static const char *const between[] = {" ",  " ",  " ",  " ",   "\n",  "\n\n", ", ",
                                          ". ", "  ", "\t", " - ", "...", " 12 "};
    char *p = NULL;
    size_t at = 0;
    rng r = rng_make(seed_get(), 9);
    assert_ok(mem_alloc(MEM_OTHER, n + 32, &p));
    while (at < n) {
        for (int k = 1 + (int)rng_below(&r, 8); k > 0; k--) p[at++] = (char)('a' + rng_below(&r, 26));
        const char *s = between[rng_below(&r, 13)];
        memcpy(p + at, s, strlen(s));
        at += strlen(s);
    }
    p[n] = 0;
    return p;
}

static err create(const char *yaml, text_source *t, uint64_t seed, task **out) {
    node *conf;
    assert_ok(node_parse_text(yaml, strlen(yaml), "test", &conf));
    err r = task_create(conf, e, t, seed, out);
    node_free(conf);
    return r;
}

static task *create_ok(const char *yaml, uint64_t seed) {
    task *t = NULL;
    if (create(yaml, text, seed, &t)) fail_msg("%s: %s", yaml, err_text());
    return t;
}

static void refused(err expected, const char *yaml, text_source *t, const char *words) {
    task *out = NULL;
    err r = create(yaml, t, 1, &out);
    if (r != expected) fail_msg("%s: got %d (%s)", yaml, r, r ? err_text() : "accepted");
    assert_null(out);
    if (!strstr(err_text(), words)) fail_msg("%s: \"%s\" does not say \"%s\"", yaml, err_text(), words);
}

static void bad_configurations_are_refused_by_name(void **state) {
    refused(ERR_USAGE, "{}", text, "task");
    refused(ERR_USAGE, "[lm]", text, "map");
    refused(ERR_USAGE, "{task: passkeys}", text, "did you mean \"passkey\"");
    refused(ERR_USAGE, "{task: summary}", text, "repeat_back");
    refused(ERR_USAGE, "{task: lm, contxt: 5}", text, "context");
    refused(ERR_USAGE, "{task: lm, context: 0}", text, "context");
    refused(ERR_USAGE, "{task: lm, context: many}", text, "context");
    refused(ERR_USAGE, "{task: lm, context: 4000, tokens: 200}", text, "4096");
    refused(ERR_USAGE, "{task: lm, context: 64, tokens: 8, skip: 50000000}", text, "text.txt");
    refused(ERR_USAGE, "{task: lm, context: 64, tokens: 8, records: 100000}", text, "records");
    refused(ERR_USAGE, "{task: lm, context: 64, tokens: 8}", NULL, "debian-reference-en");
    refused(ERR_ENV, "{task: lm, text: not_there.txt}", text, "not_there.txt");
    refused(ERR_USAGE, "{task: repeat_back, span: 1}", text, "span");
    refused(ERR_USAGE, "{task: passkey, protocol: question_last}", NULL, "p1, p2");
    refused(ERR_USAGE, "{task: passkey, depth: 1.5}", NULL, "depth");
    refused(ERR_USAGE, "{task: passkey, chat: true, template: vicuna}", NULL, "mistral-v7");
    refused(ERR_USAGE, "{task: passkey, template: chatml}", NULL, "chat: true");
    refused(ERR_USAGE, "{task: passkey, depth: []}", NULL, "depth");
    refused(ERR_USAGE, "{task: passkey, depth: {a: 1}}", NULL, "depth");
    refused(ERR_USAGE, "{task: passkey, length: [512, 1000.5]}", NULL, "1000.5");
    refused(ERR_USAGE, "{task: passkey, length: 4096}", NULL, "4096");
    refused(ERR_USAGE, "{task: speed, context: [128, -1]}", text, "context");
}

static void tokens_of_a_part_are_a_prefix_of_the_whole(void **state) {
    const tokenizer *tok = engine_tokenizer(e);
    token_list whole = {0}, part = {0};
    size_t n_bytes;
    const char *bytes = text_source_text(text, &n_bytes);
    assert_ok(tokenizer_encode(tok, bytes, n_bytes, false, false, &whole));
    rng r = rng_make(seed_get(), 10);
    for (int i = 0; i < 30; i++) {
        int n = 1 + (int)rng_below(&r, i < 25 ? 3000 : (uint32_t)whole.n);
        assert_ok(text_tokens(text, tok, n, false, &part));
        assert_int_equal(part.n, n);
        assert_memory_equal(part.ids, whole.ids, (size_t)n * sizeof *part.ids);
    }
    assert_ok(text_tokens(text, tok, whole.n + 1000, false, &part));
    assert_int_equal(part.n, whole.n);
    token_list_free(&whole);
    token_list_free(&part);
}

static void lm_windows_lie_where_they_should(void **state) {
    token_list whole = {0};
    assert_ok(text_tokens(text, engine_tokenizer(e), 4000, false, &whole));
    task *t = create_ok("{task: lm, context: 50, tokens: 7, skip: 300, stride: 111, records: 9, limit: 6}", 1);
    assert_int_equal(task_n_items(t), 6);
    assert_int_equal(task_prompt_tokens(t), 50);
    assert_false(task_is_timed(t));
    assert_string_equal(task_name(t), "lm");
    for (int i = 0; i < 6; i++) {
        task_item *it = NULL;
        assert_ok(task_item_open(t, i, &it));
        const int32_t *at = whole.ids + 300 + 111 * i;
        assert_int_equal(it->prompt.n, 50);
        assert_memory_equal(it->prompt.ids, at, 50 * sizeof *at);
        assert_int_equal(it->feed.n, 7);
        assert_memory_equal(it->feed.ids, at + 50, 7 * sizeof *at);
        assert_int_equal(it->target.n, 7);
        assert_memory_equal(it->target.ids, at + 51, 7 * sizeof *at); /* what the prefill predicts is left out */
        assert_false(it->scores_prefill);
        task_item_close(it);
    }
    task_item *none = NULL;
    assert_int_equal(task_item_open(t, 6, &none), ERR_USAGE);
    assert_int_equal(task_item_open(t, -1, &none), ERR_USAGE);
    assert_true(task_item_cost(t, true) > task_item_cost(t, false));
    task_destroy(t);
    t = create_ok("{task: lm, context: 50, tokens: 7, records: 0}", 1); /* all that fit, without overlap */
    int n_fit = task_n_items(t);
    assert_true(n_fit > 1000);
    task_item *last = NULL;
    assert_ok(task_item_open(t, n_fit - 1, &last));
    task_item_close(last);
    task_destroy(t);
    t = create_ok("{task: lm, context: 50, tokens: 7, records: 0, limit: 3}", 1);
    assert_int_equal(task_n_items(t), 3);
    task_destroy(t);
    token_list_free(&whole);
}

/* `text: [a.txt, more[01].txt]`: the first windows of all texts before the second ones, each from the start of its own text. */
static void windows_of_several_texts_take_turns(void **state) {
    static const char *const words[] = {"one two three ", "red green blue yellow ", "do re mi fa "};
    char name[32], conf[512];
    token_list whole[3] = {{0}};
    const char *dir = NULL;
    for (int i = 0; i < 3; i++) {
        char *s = NULL;
        size_t n = strlen(words[i]);
        assert_ok(mem_alloc(MEM_OTHER, n * 200 + 1, &s));
        for (int k = 0; k < 200; k++) memcpy(s + n * (size_t)k, words[i], n);
        snprintf(name, sizeof name, "turn_%d.txt", i);
        dir = temp_file(name, s);
        assert_ok(tokenizer_encode(engine_tokenizer(e), s, strlen(s), false, false, &whole[i]));
        mem_free(s);
    }
    int n_dir = (int)(strrchr(dir, '/') - dir);
    snprintf(conf, sizeof conf, "{task: lm, context: 20, tokens: 3, skip: 5, stride: 30, records: 2, text: ['%.*s/turn_2.txt', '%.*s/turn_[01].txt']}", n_dir, dir,
             n_dir, dir);
    static const int text_of[] = {2, 0, 1, 2, 0, 1};
    for (int limit = 0; limit <= 4; limit += 4) {
        char limited[640];
        snprintf(limited, sizeof limited, "%.*s, limit: %d}", (int)strlen(conf) - 1, conf, limit);
        task *t = create_ok(limited, 1);
        assert_int_equal(task_n_items(t), limit ? 4 : 6);
        for (int i = 0; i < task_n_items(t); i++) {
            task_item *it = NULL;
            assert_ok(task_item_open(t, i, &it));
            assert_memory_equal(it->prompt.ids, whole[text_of[i]].ids + 5 + 30 * (i / 3), 20 * sizeof(int32_t));
            snprintf(name, sizeof name, "text=turn_%d.txt", text_of[i]);
            assert_non_null(strstr(task_item_id(it), name));
            task_item_close(it);
        }
        task_destroy(t);
    }
    snprintf(conf, sizeof conf, "{task: lm, context: 20, tokens: 3, text: '%.*s/turn_[789].txt'}", n_dir, dir);
    refused(ERR_USAGE, conf, text, "no file matches");
    refused(ERR_USAGE, "{task: lm, context: 20, tokens: 3, text: []}", text, "pattern");
    refused(ERR_USAGE, "{task: lm, context: 20, tokens: 3, text: {a: b}}", text, "pattern");
    for (int i = 0; i < 3; i++) token_list_free(&whole[i]);
}

static void control_tokens_are_text_unless_asked_for(void **state) {
    const char *path = temp_file("chat.txt", "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n");
    int32_t start = tokenizer_find(engine_tokenizer(e), "<|im_start|>");
    assert_true(start >= 0);
    for (int special = 0; special < 2; special++) {
        char conf[256];
        snprintf(conf, sizeof conf, "{task: lm, context: 5, tokens: 1, records: 1, special_tokens: %s, text: '%s'}", special ? "true" : "false", path);
        task *t = create_ok(conf, 1);
        task_item *it = NULL;
        assert_ok(task_item_open(t, 0, &it));
        assert_int_equal(it->prompt.ids[0] == start, special);
        task_item_close(it);
        task_destroy(t);
    }
}

static void repeat_back_copies_the_span(void **state) {
    token_list whole = {0};
    assert_ok(text_tokens(text, engine_tokenizer(e), 1000, false, &whole));
    task *t = create_ok("{task: repeat_back, span: 20, filler: 30, skip: 100, records: 4}", 1);
    assert_int_equal(task_n_items(t), 4);
    task_item *it = NULL;
    assert_ok(task_item_open(t, 2, &it));
    const int32_t *at = whole.ids + 100 + 2 * 50;
    assert_int_equal(it->prompt.n, 50);
    assert_memory_equal(it->prompt.ids, at, 50 * sizeof *at);
    assert_int_equal(it->feed.n, 19);
    assert_memory_equal(it->feed.ids, at, 19 * sizeof *at);
    assert_int_equal(it->target.n, 19);
    assert_memory_equal(it->target.ids, at + 1, 19 * sizeof *at);
    task_item_close(it);
    task_destroy(t);
    token_list_free(&whole);
}

/* noinline: GCC 12 mistakes the text for the local that points to it. */
static __attribute__((noinline)) char *decode(const token_list *l, bool special) {
    char *s = NULL;
    size_t n;
    assert_ok(tokenizer_decode(engine_tokenizer(e), l->ids, l->n, special, &s, &n));
    return s;
}

static void passkey_hides_one_key_at_its_depth(void **state) {
    task *t = create_ok("{task: passkey, length: [900, 1500], depth: [0, 0.5, 1], samples: 2, digits: 7}", 3);
    assert_int_equal(task_n_items(t), 12);
    assert_int_equal(task_prompt_tokens(t), 1500);
    char previous[40] = "";
    static const char line[] =
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
    token_list line_ids = {0};
    assert_ok(tokenizer_encode(engine_tokenizer(e), line, sizeof line - 1, false, false, &line_ids));
    for (int i = 0; i < 12; i++) {
        task_item *it = NULL;
        assert_ok(task_item_open(t, i, &it));
        int length = (i / 3) % 2 ? 1500 : 900;
        char *prompt = decode(&it->prompt, false), *gold = decode(&it->target, false);
        assert_true(it->prompt.n <= length && it->prompt.n > length - line_ids.n); /* not one line more would fit */
        assert_int_equal(it->target.n, 7);
        assert_int_equal(it->feed.n, 6);
        assert_true(it->scores_prefill && it->n_lead == 0 && it->n_generate == 9);
        assert_string_equal(gold, it->gold);
        assert_string_not_equal(gold, previous);
        assert_true(strlen(gold) == 7 && gold[0] != '0');
        char *first = strstr(prompt, gold), *second = first ? strstr(first + 1, gold) : NULL;
        assert_non_null(second);
        assert_null(strstr(second + 1, gold));
        double place = (double)(first - prompt) / (double)strlen(prompt);
        assert_true(i % 3 == 0 ? place < 0.35 : i % 3 == 1 ? place > 0.4 && place < 0.75 : place > 0.8);
        assert_string_equal(prompt + strlen(prompt) - 16, "The pass key is ");
        char id[64];
        snprintf(id, sizeof id, "passkey/%04d length=%d depth=%.2f", i, length, (i % 3) / 2.0);
        assert_string_equal(task_item_id(it), id);
        snprintf(previous, sizeof previous, "%s", gold);
        mem_free(prompt);
        mem_free(gold);
        task_item_close(it);
    }
    token_list_free(&line_ids);
    task_destroy(t);
}

static void protocols_cut_the_same_tokens_elsewhere(void **state) {
    static const char *const variants[] = {"", ", chat: true", ", noise: varied", ", chat: true, noise: varied"};
    for (int v = 0; v < 4; v++) {
        char yaml[200];
        task *t[2];
        task_item *it[2] = {NULL, NULL};
        token_list all[2] = {{0}};
        for (int p = 0; p < 2; p++) {
            snprintf(yaml, sizeof yaml, "{task: passkey, protocol: p%d, length: 1200, depth: 0.3%s}", p + 1,
                     variants[v]);
            t[p] = create_ok(yaml, 5);
            assert_ok(task_item_open(t[p], 0, &it[p]));
            assert_ok(token_list_add(&all[p], it[p]->prompt.ids, it[p]->prompt.n));
            assert_ok(token_list_add(&all[p], it[p]->feed.ids, it[p]->feed.n));
            assert_int_equal(it[p]->feed.n, it[p]->n_lead + it[p]->target.n - it[p]->scores_prefill);
        }
        assert_int_equal(all[0].n, all[1].n);
        assert_memory_equal(all[0].ids, all[1].ids, (size_t)all[0].n * sizeof(int32_t));
        assert_true(it[1]->prompt.n < it[0]->prompt.n);
        char *context = decode(&it[1]->prompt, true), *whole = decode(&all[0], true);
        assert_null(strstr(context, "What is the pass key?"));
        assert_non_null(strstr(whole, "What is the pass key?"));
        assert_int_equal(strstr(whole, "<|im_start|>user") != NULL, v & 1);
        assert_int_equal(strstr(context, "The grass is green.") != NULL, v < 2);
        for (int p = 0; p < 2; p++) {
            task_item_close(it[p]);
            task_destroy(t[p]);
            token_list_free(&all[p]);
        }
        mem_free(context);
        mem_free(whole);
    }
}

static void records_depend_on_seed_and_index_alone(void **state) {
    const char *yaml = "{task: passkey, noise: varied, length: 1000, depth: [0.2, 0.8]}";
    task *a = create_ok(yaml, 11), *b = create_ok(yaml, 11), *c = create_ok(yaml, 12);
    task_item *x = NULL, *y = NULL, *z = NULL;
    assert_ok(task_item_open(a, 0, &x)); /* opened in another order than b's */
    task_item_close(x);
    assert_ok(task_item_open(a, 1, &x));
    assert_ok(task_item_open(b, 1, &y));
    assert_ok(task_item_open(c, 1, &z));
    assert_int_equal(x->prompt.n, y->prompt.n);
    assert_memory_equal(x->prompt.ids, y->prompt.ids, (size_t)x->prompt.n * sizeof(int32_t));
    assert_string_equal(x->gold, y->gold);
    assert_string_not_equal(x->gold, z->gold);
    task_item_close(x);
    task_item_close(y);
    task_item_close(z);
    task_destroy(a);
    task_destroy(b);
    task_destroy(c);
}

static void a_haystack_too_short_for_its_needle_is_refused(void **state) {
    task *t = create_ok("{task: passkey, length: 64}", 1);
    task_item *it = NULL;
    assert_int_equal(task_item_open(t, 0, &it), ERR_USAGE);
    assert_null(it);
    assert_non_null(strstr(err_text(), "64"));
    task_destroy(t);
}

static void first_run_of_digits(void **state) {
    assert_true(first_digit_run_equals("12345", "12345"));
    assert_true(first_digit_run_equals(" is 12345. Then 9", "12345"));
    assert_false(first_digit_run_equals("123456", "12345"));
    assert_false(first_digit_run_equals("1234 5", "12345"));
    assert_false(first_digit_run_equals("7 12345", "12345"));
    assert_false(first_digit_run_equals("", "12345"));
    assert_false(first_digit_run_equals("none", "1"));
}

static void metrics_have_distinct_names_and_directions(void **state) {
    static const char *const kinds[] = {"lm", "repeat_back", "passkey", "speed"};
    for (int k = 0; k < 4; k++) {
        char yaml[100];
        snprintf(yaml, sizeof yaml, "{task: %s}", kinds[k]);
        task *t = create_ok(yaml, 1);
        const task_metric *m;
        int n = task_list_metrics(t, &m);
        assert_true(n > 0 && n <= TASK_MAX_METRICS);
        for (int i = 0; i < n; i++) {
            assert_true(m[i].name && m[i].unit && m[i].help);
            if (m[i].timing) assert_true(task_is_timed(t));
            for (int j = 0; j < i; j++) assert_string_not_equal(m[i].name, m[j].name);
        }
        task_destroy(t);
    }
}

static void presets_are_valid(void **state) {
    static const char *const names[] = {"lm", "repeat_back", "passkey", "passkey_p2", "speed"};
    static const int n_items[] = {8, 6, 9, 9, 2};
    for (int i = 0; i < 5; i++) {
        char path[64];
        snprintf(path, sizeof path, "configs/tasks/%s.yaml", names[i]);
        node *conf;
        task *t = NULL;
        assert_ok(node_parse_file(path, &conf));
        assert_ok(task_create(conf, e, text, 1, &t));
        assert_ok(node_check_read(conf));
        assert_int_equal(task_n_items(t), n_items[i]);
        task_destroy(t);
        node_free(conf);
    }
}

static int set_up(void **state) {
    tiny_model m = tiny_model_default();
    m.context = 4096;
    e = tiny_engine(tiny_model_file("tiny.gguf", m), MATH_FAST, 2, "cpu", "auto");
    char *s = make_text(400000);
    assert_ok(text_source_open(temp_file("text.txt", s), NULL, &text));
    mem_free(s);
    return 0;
}

static int tear_down(void **state) {
    text_source_close(text);
    engine_close(e);
    return 0;
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_configurations_are_refused_by_name),
        cmocka_unit_test(tokens_of_a_part_are_a_prefix_of_the_whole),
        cmocka_unit_test(lm_windows_lie_where_they_should),
        cmocka_unit_test(windows_of_several_texts_take_turns),
        cmocka_unit_test(control_tokens_are_text_unless_asked_for),
        cmocka_unit_test(repeat_back_copies_the_span),
        cmocka_unit_test(passkey_hides_one_key_at_its_depth),
        cmocka_unit_test(protocols_cut_the_same_tokens_elsewhere),
        cmocka_unit_test(records_depend_on_seed_and_index_alone),
        cmocka_unit_test(a_haystack_too_short_for_its_needle_is_refused),
        cmocka_unit_test(first_run_of_digits),
        cmocka_unit_test(metrics_have_distinct_names_and_directions),
        cmocka_unit_test(presets_are_valid),
    };
    return seed_end(cmocka_run_group_tests_name("task_records", tests, set_up, tear_down));
}
