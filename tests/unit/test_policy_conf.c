/* From YAML to policies: presets, defaults, and refusals that name the place and both sides of a conflict. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/mem.h"
#include "tests/support/policies.h"
#include "tests/support/profiles.h"

static const policy_shape shape = {.n_layers = 30, .n_heads = 9, .n_kv = 3, .head_dim = 64, .context = 8192};

static bool has_comment(const char *path) {
    char *text;
    size_t n;
    assert_int_equal(io_read_file(path, 1 << 20, &text, &n), OK);
    bool found = strstr(text, " # ") != NULL || *text == '#';
    mem_free(text);
    return found;
}

/* A row of the presets' table begins with the names of one or more of them. */
static bool in_table(const char *name) {
    char *text, quoted[80];
    size_t n;
    bool found = false;
    snprintf(quoted, sizeof quoted, "`%s`", name);
    assert_int_equal(io_read_file("docs/policies.md", 1 << 20, &text, &n), OK);
    char *save = NULL, *table = strstr(text, "## Presets");
    assert_non_null(table);
    for (char *line = strtok_r(table, "\n", &save); line && !found; line = strtok_r(NULL, "\n", &save)) {
        char *end = *line == '|' ? strchr(line + 1, '|') : NULL;
        if (!end) continue;
        *end = 0;
        found = strstr(line, quoted) != NULL;
    }
    mem_free(text);
    return found;
}

static void every_preset_makes_a_policy_and_says_where_it_comes_from(void **state) {
    DIR *d = opendir("configs/policies");
    assert_non_null(d);
    int n = 0;
    for (struct dirent *f; (f = readdir(d));) {
        size_t len = strlen(f->d_name);
        if (len <= 5 || strcmp(f->d_name + len - 5, ".yaml") != 0) continue;
        char name[64], path[300];
        snprintf(name, sizeof name, "%.*s", (int)len - 5, f->d_name);
        snprintf(path, sizeof path, "configs/policies/%s", f->d_name);
        node *root;
        assert_int_equal(node_parse_file(path, &root), OK);
        assert_true(strlen(node_text(node_get(root, "origin"))) > 3);
        assert_true(strlen(node_text(node_get(root, "summary"))) > 10);
        if (!has_comment(path)) fail_msg("%s explains no option in a comment", path);
        if (!in_table(name)) fail_msg("docs/policies.md lists no `%s`", name);
        (void)node_get(root, "policy");
        assert_int_equal(node_check_read(root), OK);
        node_free(root);
        policy *p = policy_from_preset(shape_with_profile(shape), name, NULL);
        assert_true(strlen(policy_describe(p)) > 0);
        assert_null(strchr(policy_describe(p), '\n'));
        policy_destroy(p);
        n++;
    }
    closedir(d);
    assert_true(n >= 25);
}

static void no_configuration_is_the_full_cache(void **state) {
    policy *p;
    assert_int_equal(policy_create(NULL, shape, &p), OK);
    const policy_needs *needs = policy_get_needs(p);
    assert_true(policy_is_full(p));
    assert_int_equal(needs->n_tiers, 1);
    assert_int_equal(needs->tiers[0].k_bits, 16);
    assert_int_equal(needs->n_signals, 0);
    assert_false(needs->pos_column);
    assert_false(needs->score_column);
    assert_string_equal(policy_describe(p), "select all . tier uniform (f16)");
    policy_destroy(p);
}

static void keeping_all_in_the_hot_tier_is_full_whatever_its_format(void **state) {
    const struct { const char *yaml; bool full; } cases[] = {
        {"{tiers: [k4v2]}", true},
        {"{tiers: [f32]}", true},
        {"{tiers: [f16, k8v4], tier: {uniform: {format: k8v4}}}", false},
        {"{budget: 1, score: recency}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        policy *p = policy_from_text(shape, cases[i].yaml);
        assert_int_equal(policy_is_full(p), cases[i].full);
        policy_destroy(p);
    }
}

static void needs_follow_from_the_stages(void **state) {
    policy *p = policy_from_preset(shape, "snapkv", NULL);
    const policy_needs *needs = policy_get_needs(p);
    assert_int_equal(needs->n_signals, 1);
    assert_int_equal(needs->signals[0].kind, SIGNAL_WINDOW_MASS);
    assert_int_equal(needs->signals[0].rows, 32);
    assert_int_equal(needs->signals[0].power, 1);
    assert_false(needs->signals[0].max);
    assert_false(needs->pos_column); /* decided once, nothing reads positions later */
    assert_int_equal(needs->scope, SCOPE_HEAD);
    policy_destroy(p);

    p = policy_from_preset(shape, "adakv", NULL);
    assert_int_equal(policy_get_needs(p)->scope, SCOPE_LAYER);
    policy_destroy(p);

    p = policy_from_preset(shape, "streamingllm_slot", NULL);
    assert_int_equal(policy_get_needs(p)->slot_sinks, 4);
    assert_true(policy_get_needs(p)->pos_column);
    policy_destroy(p);

    p = policy_from_preset(shape, "streamingllm", NULL);
    assert_int_equal(policy_get_needs(p)->slot_sinks, 0);
    policy_destroy(p);

    p = policy_from_preset(shape, "k8v4_win64", NULL);
    assert_true(policy_get_needs(p)->pos_column);
    assert_int_equal(policy_get_needs(p)->n_tiers, 2);
    policy_destroy(p);

    p = policy_from_preset(shape, "k8v4", NULL);
    assert_false(policy_get_needs(p)->pos_column);
    policy_destroy(p);
}

static void descriptions_tell_policies_apart(void **state) {
    policy *p = policy_from_preset(shape, "adakv_k8v4_k4v2", "{budget: 0.125}");
    assert_string_equal(policy_describe(p),
                        "score window (32 rows, mean, max pool 7, group mean) . quota adaptive (blend 0.2) . select top_k . "
                        "tier by_rank (k8v4 0.5, k4v2 0.5) . budget ratio 0.125 . tiers f16, k8v4, k4v2 . sink 4 . recent 64 . slack 16");
    policy_destroy(p);
    p = policy_from_preset(shape, "streamingllm_slot", "{budget: {bytes: 0.5, decode: proportional}}");
    assert_string_equal(policy_describe(p), "score recency . quota fixed . select top_k . tier uniform (f16) . "
                                            "budget bytes 0.5 proportional . sink 4 . slack 1 . slot positions");
    policy_destroy(p);
}

static void an_amount_may_be_written_under_quota_fixed(void **state) {
    policy *p = policy_from_text(shape, "{score: recency, quota: {fixed: {tokens: 512}}}");
    assert_non_null(strstr(policy_describe(p), "budget tokens 512"));
    policy_destroy(p);
}

static void keys_of_preset_files_are_accepted(void **state) {
    policy *p = policy_from_text(shape, "{preset: x, origin: y, summary: z, tiers: k8v4}");
    assert_true(policy_is_full(p));
    policy_destroy(p);
}

static void the_registry_lists_every_stage_once(void **state) {
    const stage_info *info;
    int n = policy_list_stages(&info);
    assert_true(n >= 11);
    for (int i = 0; i < n; i++) {
        assert_true(strlen(info[i].help) > 5);
        for (int j = 0; j < i; j++)
            assert_false(!strcmp(info[i].stage, info[j].stage) && !strcmp(info[i].name, info[j].name));
    }
}

static void layouts_must_match_the_tiers(void **state) {
    policy *p;
    page_layout l[2];
    assert_int_equal(policy_create(NULL, shape, &p), OK);
    assert_int_equal(page_layout_make((kv_format){.k_bits = 8, .v_bits = 4}, 64, 0, false, 8192, l), OK);
    assert_int_equal(policy_bind(p, l), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "k8v4"));
    policy_destroy(p);
}

static void a_byte_budget_without_layouts_is_refused(void **state) {
    const char *yaml = "{score: recency, budget: {bytes: 0.5}}";
    node *root;
    policy *p;
    policy_state *s;
    assert_int_equal(node_parse_text(yaml, strlen(yaml), "test", &root), OK);
    assert_int_equal(policy_create(root, shape, &p), OK);
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    uint8_t target[3 * 10];
    policy_layer l = {.layer = 0, .n = 10, .target = target};
    assert_int_equal(policy_prefill(p, s, &l, 1), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "policy_bind"));
    policy_state_destroy(s);
    policy_destroy(p);
    node_free(root);
}

static void impossible_budgets_are_refused_with_their_place(void **state) {
    const char *head = "score: recency\nbudget: ";
    const struct { const char *budget, *words; } cases[] = {
        {"1.5", "ratio 1.5|impossible|{tokens: n}"},
        {"0", "ratio 0|impossible"},
        {"-0.25", "ratio -0.25|impossible"},
        {"{ratio: 2}", "ratio 2|impossible"},
        {"{tokens: 0}", "0 tokens|impossible"},
        {"{tokens: -3}", "-3 tokens|impossible"},
        {"{tokens: 3.5}", "3.5|whole"},
        {"{pages: 0}", "0 pages|impossible"},
        {"{pages: 2.5}", "2.5 pages|whole"},
        {"{pages: 5, decode: proportional}", "proportional|pages"},
        {"{rate: 0.5}", "rate 0.5|impossible"},
        {"{rate: 4, step: 0}", "step"},
        {"{ratio: 0.5, floor: 128}", "floor"},
        {"{bytes: 0}", "bytes 0|impossible"},
        {"{bytes: 1.1}", "bytes 1.1|impossible"},
        {"{ratio: .nan}", "ratio|number"},
        {"{}", "no amount"},
        {"{decode: fixed}", "no amount"},
        {"{ratio: 0.5, tokens: 5}", "ratio|tokens"},
        {"{ratio: 0.5, decode: rising}", "rising|fixed|proportional"},
        {"{tokens: 5, decode: proportional}", "proportional|tokens"},
        {"{pages: 2, bytes: 0.5}", "bytes|pages"},
        {"{ratoi: 0.5}", "ratoi"},
        {"[0.5]", "ratio"},
        {"many", "many"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char yaml[128];
        snprintf(yaml, sizeof yaml, "%s%s", head, cases[i].budget);
        assert_policy_refused(yaml, 2, cases[i].words);
    }
}

static void conflicts_name_both_stages(void **state) {
    const struct { int line; const char *yaml, *words; } cases[] = {
        {1, "budget: 0.5\nselect: all\nscore: recency", "ratio 0.5|select all"},
        {1, "budget: 0.5\nquota: none\nscore: recency", "ratio 0.5|select all"},
        {2, "budget: 0.5\nselect: top_k\nquota: none\nscore: recency", "select top_k|quota none"},
        {1, "score: recency", "score recency|select all|tier uniform"},
        {1, "quota: fixed\nscore: recency", "quota fixed|budget"},
        {1, "budget: 0.5", "select top_k|score"},
        {2, "budget: 0.5\nselect: top_k", "select top_k|score"},
        {1, "budget: 0.5\nquota: {adaptive: {}}", "select top_k|score"},
        {2, "tiers: [f16, k8v4]\ntier: {by_rank: {shares: {k8v4: 1}}}", "tier by_rank|score"},
        {3, "budget: 0.5\nscore: {window: {}}\ntrigger: {pressure: true}", "pressure|score window"},
        {1, "trigger: {pressure: true}", "pressure|select all"},
        {3, "budget: 0.5\nscore: random\ntrigger: {order: stale}", "order: stale|pressure"},
        {2, "budget: {bytes: 0.5}\nquota: {pages: {count: pages}}\nscore: {window: {}}", "count: pages|bytes|items"},
        {4, "tiers: [f16, k8v4]\ntier: {uniform: {format: k8v4}}\nbudget: 0.5\nquota: {pages: {count: excess}}\nscore: {window: {}}", "count: excess|several tiers"},
        {2, "budget: 0.5\nquota: {pages: {chunk: 65}}\nscore: {window: {}}", "chunk|65|64"},
        {3, "budget: 0.5\nscore: {window: {}}\ntrigger: {prefill: false, slack: 4}", "prefill: false|score window"},
        {4, "budget: 0.5\nscore: random\nquota: {pyramid: {}}\ntrigger: {slack: 4}", "quota pyramid|score random"},
        {3, "budget: 0.5\nscore: {window: {}}\ntrigger: {slack: 4}", "slack: 4|score window|tier uniform"},
        {1, "trigger: {every: 4}", "every: 4|select all|tier uniform"},
        {3, "score: recency\nbudget: 0.5\ntrigger: {prefill: false}", "prefill: false|select top_k"},
        {2, "score: recency\nbudget: {ratio: 0.5, decode: proportional}", "decode: proportional|score recency"},
        {2, "score: {window: {}}\nbudget: {ratio: 0.5, decode: fixed}", "decode: fixed|score window"},
        {3, "score: random\nbudget: 0.5\npositions: slot", "slot|score random|holes"},
        {3, "score: {window: {}}\nbudget: 0.5\npositions: slot", "slot|score window|holes"},
        {1, "positions: slot", "slot|select all"},
        {4, "score: recency\nbudget: 0.5\nquota: {adaptive: {}}\npositions: slot", "slot|quota adaptive"},
        {1, "protect: {recent: 64}", "recent: 64|select all|f16"},
        {1, "protect: {sink: 4}", "sink: 4|select all|tier uniform"},
        {1, "tiers: [f16, k8v4]", "f16, k8v4|tier"},
        {1, "tiers: [f16, k8v4, k4v2]\ntier: {uniform: {format: k8v4}}", "k4v2|tier uniform"},
        {2, "tiers: [f16, k8v4]\ntier: {uniform: {format: k4v2}}", "tier uniform|k4v2|f16, k8v4"},
        {2, "tiers: [f16, k8v4]\ntier: uniform", "tier uniform|format"},
        {2, "tiers: [f16, k8v4]\ntier: {by_flag: {important: k4v4}}", "tier by_flag|k4v4|f16, k8v4"},
        {2, "tiers: [f16, k8v4]\ntier: {by_flag: {recent: f16}}", "by_flag|important"},
        {2, "tiers: [f16, k8v4]\ntier: {by_flag: {important: k8v4, representative: k8v4}}", "by_flag|select all|representatives"},
        {2, "tiers: [f16, k8v4]\ntier: {by_flag: {important: k8v4, recent: f16}}", "by_flag|protect.recent"},
        {2, "tiers: [f16, k8v4]\ntier: {by_flag: {important: k8v4, sink: f16}}", "by_flag|protect.sink"},
        {2, "tiers: [k4v2, k8v4]\ntier: {uniform: {format: k8v4}}\ntrigger: {slack: 8}", "tier uniform|k4v2 to k8v4"},
        {2, "tiers: [f16, k4v4, k8v4]\ntier: {by_flag: {recent: k4v4, important: k8v4}}\nprotect: {recent: 8}\ntrigger: {slack: 8}",
         "tier by_flag|k4v4 to k8v4"},
        {2, "tiers: [k8v8, k8v4g32]\ntier: {uniform: {format: k8v4g32}}\ntrigger: {slack: 8}", "k8v8 to k8v4g32"},
        {2, "score: random\nbudget: {bytes: 0.5}\ntrigger: {slack: 4}\ntiers: [f16, k8v4]\ntier: {by_rank: {shares: {f16: 0.5, k8v4: 0.5}}}",
         "budget bytes|tier by_rank|score random"},
        {1, "score: {column: {live: true}}\nbudget: 0.5", "score column|live|trigger slack or every"},
        {3, "score: {column: {live: true}}\nbudget: 0.5\ntrigger: {slack: 4}\ntiers: [f16, k4cv4g32]\ntier: {uniform: {format: k4cv4g32}}",
         "score column|k4cv4g32"},
        {1, "score: {window: {live: add}}\nbudget: 0.5\ntrigger: {slack: 4}", "live: add|force_window"},
        {3, "budget: 0.5\nscore: window\nquota: {pages: {control_layers: [0]}}", "control_layers|over: sequence"},
        {3, "budget: {bytes: 0.5}\nscore: window\nquota: {pages: {control_layers: [0], over: layer}}", "control_layers|bytes"},
        {3, "budget: 0.5\nscore: window\nquota: {pages: {control_layers: [2], over: layer}}", "control layer 2|0 to 1"},
        {3, "budget: 0.5\nscore: window\nquota: {pages: {control_layers: 2, over: layer}}", "control_layers|list"},
        {1, "score: {column: {live: true, reduce: mean, lag: 3}}\nbudget: 0.5\ntrigger: {slack: 4}", "live|lag: 3"},
        {3, "score: {column: {live: true}}\nbudget: 0.5\nquota: {global: {count: evicted}}\ntrigger: {slack: 4}", "count: evicted|score column"},
        {3, "score: {column: {live: true}}\nbudget: 0.5\nselect: {critical: {}}\ntrigger: {slack: 4}", "select critical|score column"},
        {4, "score: {column: {live: true}}\nbudget: 0.5\nquota: {pyramid: {}}\ntrigger: {slack: 4}", "quota pyramid|score column"},
        {2, "score: random\nbudget: {pages: 2}\ntrigger: {slack: 4}\ntiers: [f16, k8v4]\ntier: {by_rank: {shares: {f16: 0.5, k8v4: 0.5}}}",
         "budget pages|tier by_rank|score random"},
        {3, "score: {column: {live: true}}\nbudget: 0.5\nquota: {fixed: {skip: 2}}\ntrigger: {slack: 4}", "skip: 2|score column"},
        {1, "score: {key_diff: {block: 16}}\nbudget: 0.5\nquota: {adaptive: {}}", "score key_diff|block|quota adaptive"},
        {1, "score: {key_diff: {block: 16}}\nbudget: 0.5\nselect: {critical: {}}", "score key_diff|block|select critical"},
        {1, "trigger: {slack: 4, every: 4}", "slack: 4|every: 4"},
        {1, "layers: each", "each|global|all|with a sliding window"},
        {1, "page_bytes: 100", "page_bytes|100|1024"},
        {1, "page_bytes: 7000", "page_bytes|7000|multiples of 64"},
        {2, "tiers: [f16, k4cv4g32]\npage_bytes: 2112\ntier: {uniform: {format: k4cv4g32}}", "page_bytes|2112|k4cv4g32"},
        {3, "score: recency\nbudget: 0.5\nquota: {fixed: {tokens: 5}}", "quota fixed|budget"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_policy_refused(cases[i].yaml, cases[i].line, cases[i].words);
}

static void bad_values_name_what_is_supported(void **state) {
    const struct { int line; const char *yaml, *words; } cases[] = {
        {1, "score: recencey", "recencey|did you mean|recency|window|random"},
        {1, "select: {median: {}}", "select|median|all, top_k"},
        {1, "score: {window: {}, random: {}}", "score|window, random"},
        {1, "score: {window: 3}", "score window|map"},
        {1, "score: [window]", "score"},
        {1, "score: {window: {row: 3}}", "row"},
        {1, "score: {window: {rows: 65}}", "rows|64"},
        {1, "score: {window: {pool: avg, width: 4}}", "width 4|odd"},
        {1, "score: {window: {pool: mean}}", "mean"},
        {1, "score: {window: {group: none}}", "none"},
        {1, "quota: {adaptive: {alpha: 1.5}}", "alpha"},
        {1, "quota: {adaptive: {mode: floor, rounding: source}}", "floor|source"},
        {1, "select: {top_k: {ties: middle}}", "middle"},
        {1, "tiers: [f16, f16]", "f16 twice"},
        {1, "tiers: [k9v1]", "k9v1"},
        {1, "tiers: []", "tiers"},
        {1, "tiers: [f16, k8v8, k8v4, k4v4, k4v2]", "4"},
        {1, "positions: relative", "relative|absolute|slot"},
        {1, "protect: {sink: -1}", "sink"},
        {1, "triger: {slack: 4}", "triger|trigger"},
        {2, "tiers: [f16, k8v4]\ntier: {by_rank: {shares: {k8v4: 0.5}}}", "0.5 instead of 1"},
        {2, "tiers: [f16, k8v4]\ntier: {by_rank: {shares: {k8v4: 0}}}", "share 0"},
        {2, "tiers: [f16, k8v4]\ntier: by_rank", "shares"},
        {2, "tiers: [f16, k8v4]\ntier: {by_rank: {shares: {k8v4: 1}, later: f16}}", "later"},
        {1, "[1]", "map"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_policy_refused(cases[i].yaml, cases[i].line, cases[i].words);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_preset_makes_a_policy_and_says_where_it_comes_from),
        cmocka_unit_test(no_configuration_is_the_full_cache),
        cmocka_unit_test(keeping_all_in_the_hot_tier_is_full_whatever_its_format),
        cmocka_unit_test(needs_follow_from_the_stages),
        cmocka_unit_test(descriptions_tell_policies_apart),
        cmocka_unit_test(an_amount_may_be_written_under_quota_fixed),
        cmocka_unit_test(keys_of_preset_files_are_accepted),
        cmocka_unit_test(the_registry_lists_every_stage_once),
        cmocka_unit_test(layouts_must_match_the_tiers),
        cmocka_unit_test(a_byte_budget_without_layouts_is_refused),
        cmocka_unit_test(impossible_budgets_are_refused_with_their_place),
        cmocka_unit_test(conflicts_name_both_stages),
        cmocka_unit_test(bad_values_name_what_is_supported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
