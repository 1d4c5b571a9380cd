/* The journal: what was written comes back bit for bit, what a crash or a flipped bit leaves is told apart, and records
 * merge. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "run/journal.h"
#include "run/results.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        err e_ = (call);                                                                                               \
        if (e_ != OK) fail_msg("%s: %s (%s)", #call, err_text(), err_place());                                         \
    } while (0)

/* ---- making records ---- */

static double any_double(rng *r) {
    for (;;) {
        uint64_t u = rng_u64(r);
        double x;
        memcpy(&x, &u, 8);
        if (isfinite(x)) return x;
    }
}

static float any_float(rng *r) {
    for (;;) {
        uint32_t u = (uint32_t)rng_u64(r);
        float x;
        memcpy(&x, &u, 4);
        if (isfinite(x)) return x;
    }
}

static unit_record random_record(rng *r) {
    static const double special[] = {0.0, -0.0, INFINITY, -INFINITY, 5e-324, 1.7976931348623157e308, 0.1};
    unit_record u = {
        .noise = rng_below(r, 2), .item = (int)rng_below(r, 1000), .status = (unit_status)rng_below(r, UNIT_N_STATUS)};
    hash_hex64(rng_u64(r), u.point);
    u.label = mem_strdup("snapkv budget=0.25");
    u.task = mem_strdup("lm");
    u.item_id = mem_strdup("lm/0003 \"quoted\" \\ \t");
    u.text = mem_strdup(u.status == UNIT_OK ? "" : "a reason\nof two lines");
    u.n_metrics = (int)rng_below(r, 8);
    assert_ok(mem_alloc(MEM_OTHER, (size_t)u.n_metrics * sizeof *u.metrics, &u.metrics));
    for (int i = 0; i < u.n_metrics; i++) {
        u.metrics[i].name = mem_sprintf("metric_%d", i);
        u.metrics[i].value = rng_below(r, 3) ? any_double(r) : rng_below(r, 4) ? special[rng_below(r, 7)] : NAN;
    }
    u.n_series = (int)rng_below(r, 20);
    if (u.n_series) {
        assert_ok(mem_alloc(MEM_OTHER, (size_t)u.n_series * 4, &u.kl));
        assert_ok(mem_alloc(MEM_OTHER, (size_t)u.n_series * 4, &u.nll));
        assert_ok(mem_alloc(MEM_OTHER, (size_t)u.n_series, &u.top1));
    }
    for (int i = 0; i < u.n_series; i++) {
        u.kl[i] = any_float(r);
        u.nll[i] = rng_below(r, 10) ? any_float(r) : INFINITY;
        u.top1[i] = (uint8_t)rng_below(r, 2);
    }
    size_t *bytes = (size_t *)&u.at_prompt;
    for (size_t i = 0; i < sizeof u.at_prompt / sizeof *bytes; i++) bytes[i] = rng_u64(r) >> (1 + rng_below(r, 62));
    u.at_end = u.at_prompt;
    u.at_end.live = 7;
    if (rng_below(r, 2)) {
        u.n_layers = 1 + (int)rng_below(r, 4);
        u.n_kv = 1 + (int)rng_below(r, 3);
        u.n_tiers = 1 + (int)rng_below(r, 4);
        size_t n = (size_t)u.n_layers * (size_t)u.n_kv * (size_t)u.n_tiers;
        assert_ok(mem_alloc(MEM_OTHER, n * 4, &u.kept));
        for (size_t i = 0; i < n; i++) u.kept[i] = (uint32_t)rng_u64(r);
    }
    u.n_prompt = (int)rng_below(r, 100000);
    u.n_decoded = (int)rng_below(r, 1000);
    u.budget_clamped = rng_below(r, 2);
    u.seconds = rng_uniform(r);
    if (rng_below(r, 2)) u.output = mem_strdup("12345 \xE4\xB8\xAD and more");
    return u;
}

static void assert_same_bits(const void *a, const void *b, size_t n) {
    if (n) assert_memory_equal(a, b, n);
}

static void assert_same_record(const unit_record *a, const unit_record *b) {
    assert_int_equal(a->noise, b->noise);
    assert_string_equal(a->point, b->point);
    assert_string_equal(a->label, b->label);
    assert_string_equal(a->task, b->task);
    assert_string_equal(a->item_id, b->item_id);
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->item, b->item);
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->n_metrics, b->n_metrics);
    for (int i = 0; i < a->n_metrics; i++) {
        assert_string_equal(a->metrics[i].name, b->metrics[i].name);
        if (isnan(a->metrics[i].value))
            assert_true(isnan(b->metrics[i].value));
        else
            assert_same_bits(&a->metrics[i].value, &b->metrics[i].value, 8);
    }
    assert_int_equal(a->n_series, b->n_series);
    assert_same_bits(a->kl, b->kl, (size_t)a->n_series * 4);
    assert_same_bits(a->nll, b->nll, (size_t)a->n_series * 4);
    assert_same_bits(a->top1, b->top1, (size_t)a->n_series);
    assert_same_bits(&a->at_prompt, &b->at_prompt, sizeof a->at_prompt);
    assert_same_bits(&a->at_end, &b->at_end, sizeof a->at_end);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_kv, b->n_kv);
    assert_int_equal(a->n_tiers, b->n_tiers);
    assert_same_bits(a->kept, b->kept, (size_t)a->n_layers * (size_t)a->n_kv * (size_t)a->n_tiers * 4);
    assert_int_equal(a->n_prompt, b->n_prompt);
    assert_int_equal(a->n_decoded, b->n_decoded);
    assert_int_equal(a->budget_clamped, b->budget_clamped);
    assert_same_bits(&a->seconds, &b->seconds, 8);
    assert_int_equal(a->output == NULL, b->output == NULL);
    if (a->output) assert_string_equal(a->output, b->output);
}

/* ---- lines ---- */

static void records_come_back_bit_for_bit(void **state) {
    rng r = rng_make(seed_get(), 1);
    for (int round = 0; round < 300; round++) {
        unit_record a = random_record(&r), b;
        json_t *j, *back;
        char *line;
        assert_ok(unit_record_to_json(&a, &j));
        assert_ok(journal_line_encode(j, &line));
        assert_null(strchr(line, '\n'));
        assert_ok(journal_line_decode(line, strlen(line), &back));
        assert_ok(unit_record_from_json(back, &b));
        assert_same_record(&a, &b);
        unit_record_free(&a);
        unit_record_free(&b);
        mem_free(line);
        json_decref(j);
        json_decref(back);
    }
}

static void text_that_is_not_utf8_is_kept_readable(void **state) {
    unit_record a = {.item = 0}, b;
    json_t *j;
    hash_hex64(1, a.point);
    a.output = mem_strdup("ok \xff\xC3\x28 \xED\xA0\x80 \xC3\xA9");
    assert_ok(unit_record_to_json(&a, &j));
    assert_ok(unit_record_from_json(j, &b));
    assert_string_equal(b.output, "ok \xEF\xBF\xBD\xEF\xBF\xBD( \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD \xC3\xA9");
    unit_record_free(&a);
    unit_record_free(&b);
    json_decref(j);
}

static void every_flipped_bit_is_noticed(void **state) {
    rng r = rng_make(seed_get(), 2);
    unit_record a = random_record(&r);
    json_t *j, *back;
    char *line;
    assert_ok(unit_record_to_json(&a, &j));
    assert_ok(journal_line_encode(j, &line));
    size_t n = strlen(line);
    for (size_t i = 0; i < n; i++) {
        line[i] ^= (char)(1 << rng_below(&r, 8));
        assert_int_equal(journal_line_decode(line, n, &back), ERR_FORMAT);
        assert_null(back);
        mem_free(line);
        assert_ok(journal_line_encode(j, &line));
    }
    for (size_t cut = 0; cut < n; cut += 1 + rng_below(&r, 7))
        assert_int_equal(journal_line_decode(line, cut, &back), ERR_FORMAT);
    mem_free(line);
    json_decref(j);
    unit_record_free(&a);
}

static void wrong_members_are_named(void **state) {
    static const struct {
        const char *key, *json, *names;
    } bad[] = {{"status", "\"great\"", "status"},
               {"item", "-1", "item"},
               {"item", "\"one\"", "item"},
               {"point", "\"xyz\"", "point"},
               {"metrics", "[]", "metrics"},
               {"metrics", "{\"kl\": true}", "kl"},
               {"kept", "[[[1],[1,2]]]", "kept"},
               {"at_end", "{}", "at_end"},
               {"series", "{\"top1\": [2], \"kl\": [1], \"nll\": [1]}", "top1"},
               {"series", "{\"top1\": [1], \"kl\": [1, 2], \"nll\": [1]}", "kl"},
               {"n_prompt", "1e9", "n_prompt"},
               {"label", "null", "label"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        unit_record a = {.item = 0}, b;
        json_t *j;
        hash_hex64(1, a.point);
        assert_ok(unit_record_to_json(&a, &j));
        json_object_set_new(j, bad[i].key, json_loads(bad[i].json, JSON_DECODE_ANY, NULL));
        assert_int_equal(unit_record_from_json(j, &b), ERR_FORMAT);
        assert_non_null(strstr(err_text(), bad[i].names));
        json_decref(j);
    }
}

/* ---- files ---- */

static err count_line(void *arg, int line, const json_t *value) {
    ++*(int *)arg;
    return OK;
}

static void append_numbers(const char *path, int from, int to) {
    journal *j;
    assert_ok(journal_open(path, &j));
    for (int i = from; i < to; i++) {
        json_t *v = json_pack("{s:i}", "i", i);
        assert_ok(journal_append(j, v));
        json_decref(v);
    }
    assert_ok(journal_close(j));
}

static void a_torn_last_line_is_tolerated_and_cut_by_the_next_writer(void **state) {
    const char *path = temp_path("torn.jsonl");
    append_numbers(path, 0, 3);
    char *whole;
    size_t n;
    assert_ok(io_read_file(path, 1 << 20, &whole, &n));
    size_t last = n - 1;
    while (whole[last - 1] != '\n') last--;   /* the last line begins here */
    for (size_t cut = last; cut < n; cut++) { /* torn after any byte, its newline missing included */
        journal_report rep;
        int seen = 0;
        assert_int_equal(truncate(path, (off_t)cut), 0);
        assert_ok(journal_read(path, count_line, &seen, &rep));
        assert_int_equal(seen, 2);
        assert_int_equal(rep.n_corrupt, 0);
        assert_int_equal(rep.torn, cut > last);
        append_numbers(path, 2, 3);
        seen = 0;
        assert_ok(journal_read(path, count_line, &seen, &rep));
        assert_int_equal(seen, 3);
        assert_false(rep.torn);
        char *again;
        size_t n_again;
        assert_ok(io_read_file(path, 1 << 20, &again, &n_again));
        assert_int_equal(n_again, n);
        assert_memory_equal(again, whole, n);
        mem_free(again);
    }
    mem_free(whole);
}

static void corrupted_lines_are_left_out_and_numbered(void **state) {
    const char *path = temp_path("corrupt.jsonl");
    append_numbers(path, 0, 20);
    char *text;
    size_t n;
    assert_ok(io_read_file(path, 1 << 20, &text, &n));
    int line = 1;
    for (size_t i = 0; i < n; i++) {
        bool start = i == 0 || text[i - 1] == '\n';
        if (start && (line == 4 || line == 17)) text[i + 20] ^= 1;
        line += text[i] == '\n';
    }
    assert_ok(io_write_file(path, text, n));
    mem_free(text);
    journal_report rep;
    int seen = 0;
    assert_ok(journal_read(path, count_line, &seen, &rep));
    assert_int_equal(seen, 18);
    assert_int_equal(rep.n_lines, 20);
    assert_int_equal(rep.n_good, 18);
    assert_int_equal(rep.n_corrupt, 2);
    assert_int_equal(rep.corrupt[0], 4);
    assert_int_equal(rep.corrupt[1], 17);
}

static void a_directory_or_a_missing_file_is_no_journal(void **state) {
    journal *j;
    journal_report rep;
    int seen = 0;
    char *inside = io_join(temp_dir(), "absent/units.jsonl");
    assert_int_equal(journal_open(temp_dir(), &j), ERR_IO);
    assert_int_equal(journal_open(inside, &j), ERR_IO);
    assert_int_equal(journal_read(inside, count_line, &seen, &rep), ERR_IO);
    assert_non_null(strstr(err_text(), "units.jsonl"));
    mem_free(inside);
}

/* ---- results ---- */

static const char header_text[] = "{\"kind\":\"sweep\",\"version\":1,\"name\":\"s\",\"question\":\"\",\"sweep_id\":"
                                  "\"00000000000000aa\",\"text_name\":\"\",\"text_sha256\":\"\","
                                  "\"groups\":[{\"id\":\"00000000000000bb\",\"model\":\"m\",\"model_sha256\":\"\","
                                  "\"backend\":\"cpu\",\"isa\":\"avx2\",\"math\":\"fast\",\"threads\":1,"
                                  "\"context\":64,\"seed\":\"ffffffffffffffff\"}],"
                                  "\"tasks\":[{\"name\":\"lm\",\"conf\":\"{}\",\"timed\":false,\"n_items\":3,"
                                  "\"metrics\":[{\"name\":\"kl\",\"unit\":\"nats\",\"help\":\"h\",\"direction\":2,"
                                  "\"timing\":false}],\"cost_prepare\":1.5,\"cost_unit\":0.5,\"prompt_tokens\":32}],"
                                  "\"points\":[{\"id\":\"0000000000000001\",\"label\":\"full\",\"axes\":[[\"policy."
                                  "preset\",\"full\"]],\"conf\":\"{}\",\"policy\":\"f\",\"tiers\":[\"f16\"],"
                                  "\"full\":true,\"group\":0,\"tasks\":[0]},"
                                  "{\"id\":\"0000000000000002\",\"label\":\"k8v4\",\"axes\":[],\"conf\":\"{}\","
                                  "\"policy\":\"k\",\"tiers\":[\"k8v4\"],\"full\":false,\"group\":0,\"tasks\":[0]}]}";

static json_t *header(void) {
    json_t *j = json_loads(header_text, 0, NULL);
    assert_non_null(j);
    return j;
}

static json_t *record(const char *point, int item, const char *status, double kl) {
    unit_record u = {.item = item};
    snprintf(u.point, sizeof u.point, "%s", point);
    u.task = mem_strdup("lm");
    u.label = mem_strdup("p");
    u.n_metrics = 1;
    assert_ok(mem_alloc(MEM_OTHER, sizeof *u.metrics, &u.metrics));
    u.metrics[0] = (named_value){mem_strdup("kl"), kl};
    json_t *j;
    assert_ok(unit_record_to_json(&u, &j));
    json_object_set_new(j, "status", json_string(status));
    unit_record_free(&u);
    return j;
}

static void write_lines(const char *path, json_t *const *lines, int n) {
    journal *j;
    assert_ok(journal_open(path, &j));
    for (int i = 0; i < n; i++) {
        assert_ok(journal_append(j, lines[i]));
        json_decref(lines[i]);
    }
    assert_ok(journal_close(j));
}

static const char *journal_dir(const char *name, char **first, char **second) {
    const char *dir = temp_path(name);
    char *folder = io_join(dir, "journal");
    assert_ok(io_make_dirs(folder));
    *first = io_join(folder, "a.jsonl");
    *second = io_join(folder, "b.jsonl");
    mem_free(folder);
    return dir;
}

static void the_header_comes_back_as_it_was(void **state) {
    json_t *h = header(), *again;
    results *r;
    assert_ok(results_from_header(h, "dir", &r));
    assert_int_equal(r->n_expected, 6);
    assert_int_equal(r->points[1].baseline, 0);
    assert_true(r->groups[0].seed == UINT64_MAX);
    assert_ok(results_header_json(r, &again));
    assert_true(json_equal(h, again));
    json_decref(h);
    json_decref(again);
    results_free(r);
}

/* null is how JSON writes NaN: read as a cost it could not be written again. */
static void a_header_whose_costs_are_no_numbers_is_refused(void **state) {
    for (int i = 0; i < 2; i++) {
        json_t *h = header(), *task = json_array_get(json_object_get(h, "tasks"), 0);
        results *r = NULL;
        assert_int_equal(json_object_set_new(task, i ? "cost_unit" : "cost_prepare", json_null()), 0);
        assert_int_equal(results_from_header(h, "dir", &r), ERR_FORMAT);
        assert_non_null(strstr(err_text(), "cost"));
        json_decref(h);
    }
}

static void a_header_with_any_member_missing_is_refused(void **state) {
    static const char *const lists[] = {NULL, "groups", "tasks", "points"};
    for (size_t l = 0; l < sizeof lists / sizeof *lists; l++) {
        json_t *model_header = header();
        json_t *model = lists[l] ? json_array_get(json_object_get(model_header, lists[l]), 0) : model_header;
        const char *key;
        json_t *v;
        json_object_foreach(model, key, v) {
            if (strcmp(key, "kind") == 0) continue;
            json_t *h = header();
            results *r;
            json_object_del(lists[l] ? json_array_get(json_object_get(h, lists[l]), 0) : h, key);
            if (results_from_header(h, "dir", &r) != ERR_FORMAT)
                fail_msg("a header without %s.%s was read", lists[l] ? lists[l] : "", key);
            json_decref(h);
        }
        json_decref(model_header);
    }
}

static void the_last_ok_wins_over_later_failures(void **state) {
    char *a, *b;
    const char *dir = journal_dir("merge", &a, &b);
    write_lines(a,
                (json_t *[]){header(), record("0000000000000001", 0, "failed", 0),
                             record("0000000000000001", 0, "ok", 1), record("0000000000000001", 0, "ok", 2),
                             record("0000000000000001", 0, "crashed", 3), record("0000000000000002", 2, "crashed", 4)},
                6);
    results *r;
    assert_ok(results_load(dir, &r));
    assert_int_equal(results_unit(r, 0, 0, 0)->status, UNIT_OK);
    assert_true(unit_record_metric(results_unit(r, 0, 0, 0), "kl") == 2);
    assert_null(results_unit(r, 0, 0, 1));
    assert_int_equal(r->n_ok, 1);
    assert_int_equal(r->n_crashed, 1);
    assert_int_equal(r->n_failed, 0);
    double x[3];
    results_column(r, 1, 0, "kl", x);
    assert_true(isnan(x[0]) && isnan(x[1]) && isnan(x[2]));
    results_free(r);
    mem_free(a);
    mem_free(b);
}

static void journals_of_one_sweep_merge_and_of_two_do_not(void **state) {
    char *a, *b;
    const char *dir = journal_dir("shards", &a, &b);
    json_t *noise = record("00000000000000bb", 1, "ok", 9);
    json_object_set_new(noise, "kind", json_string("noise"));
    write_lines(a, (json_t *[]){header(), record("0000000000000001", 0, "ok", 1)}, 2);
    write_lines(
        b,
        (json_t *[]){header(), record("0000000000000002", 1, "ok", 2), noise, record("00000000000000ff", 0, "ok", 3)},
        4);
    results *r;
    assert_ok(results_load(dir, &r));
    assert_int_equal(r->n_ok, 2);
    assert_true(unit_record_metric(results_unit(r, 1, 0, 1), "kl") == 2);
    assert_true(unit_record_metric(results_noise(r, 0, 0, 1), "kl") == 9);
    results_free(r);
    json_t *other = header();
    json_object_set_new(other, "sweep_id", json_string("00000000000000cc"));
    write_lines(b, (json_t *[]){other}, 1);
    assert_int_equal(results_load(dir, &r), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "different sweeps"));
    mem_free(a);
    mem_free(b);
}

static void a_record_of_a_wrong_shape_names_file_and_line(void **state) {
    char *a, *b;
    const char *dir = journal_dir("wrong", &a, &b);
    json_t *bad = record("0000000000000001", 0, "ok", 1);
    json_object_set_new(bad, "item", json_string("zero"));
    write_lines(a, (json_t *[]){header(), bad}, 2);
    results *r;
    assert_int_equal(results_load(dir, &r), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "a.jsonl:2"));
    assert_non_null(strstr(err_text(), "item"));
    mem_free(a);
    mem_free(b);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back_bit_for_bit),
        cmocka_unit_test(text_that_is_not_utf8_is_kept_readable),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(wrong_members_are_named),
        cmocka_unit_test(a_torn_last_line_is_tolerated_and_cut_by_the_next_writer),
        cmocka_unit_test(corrupted_lines_are_left_out_and_numbered),
        cmocka_unit_test(a_directory_or_a_missing_file_is_no_journal),
        cmocka_unit_test(the_header_comes_back_as_it_was),
        cmocka_unit_test(a_header_whose_costs_are_no_numbers_is_refused),
        cmocka_unit_test(a_header_with_any_member_missing_is_refused),
        cmocka_unit_test(the_last_ok_wins_over_later_failures),
        cmocka_unit_test(journals_of_one_sweep_merge_and_of_two_do_not),
        cmocka_unit_test(a_record_of_a_wrong_shape_names_file_and_line),
    };
    log_set(LOG_ERROR, false);
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
