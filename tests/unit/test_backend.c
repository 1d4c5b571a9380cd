/* Backends by name: what is found, what is refused and in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "backend/backend.h"
#include "kernels/cpu/isa.h"

static void whole(const backend *b) {
    assert_non_null(b->weight_pack);
    assert_non_null(b->weight_free);
    assert_non_null(b->weight_bytes);
    assert_non_null(b->act_bytes);
    assert_non_null(b->act_prepare);
    assert_non_null(b->linear);
    assert_non_null(b->rms_norm);
    assert_non_null(b->norm_prepare);
    assert_non_null(b->gate_prepare);
    assert_non_null(b->rope);
    assert_non_null(b->prefill_scratch_bytes);
    assert_non_null(b->attn_prefill);
    assert_non_null(b->mass_scratch_bytes);
    assert_non_null(b->attn_mass);
    assert_non_null(b->attn_scratch_bytes);
    assert_non_null(b->attn_decode);
    assert_non_null(b->page_put);
    assert_non_null(b->page_move);
}

static void every_path_and_mode_is_whole_and_named(void **state) {
    const char *isas[8];
    int n = backend_isas(isas, 8);
    assert_in_range(n, 1, 4);
    assert_string_equal(isas[n - 1], "scalar");
    for (int math = 0; math < 2; math++) {
        const backend *b = NULL;
        for (int i = 0; i < n; i++) {
            assert_int_equal(backend_find("cpu", isas[i], (math_mode)math, &b), OK);
            whole(b);
            assert_string_equal(b->name, "cpu");
            assert_string_equal(b->isa, isas[i]);
            assert_int_equal(b->math, math);
            const backend *again = NULL;
            assert_int_equal(backend_find("auto", isas[i], (math_mode)math, &again), OK);
            assert_ptr_equal(b, again);
        }
        assert_int_equal(backend_find("auto", "auto", (math_mode)math, &b), OK);
        assert_string_equal(b->isa, isas[0]);
        assert_int_equal(backend_find("reference", "auto", (math_mode)math, &b), OK);
        whole(b);
        assert_string_equal(b->name, "reference");
        assert_int_equal(b->math, math);
    }
    const char *one[1];
    assert_int_equal(backend_isas(one, 1), 1);
    assert_string_equal(one[0], isas[0]);
}

static void refused(const char *name, const char *isa, const char *word) {
    const backend *b = NULL;
    assert_int_equal(backend_find(name, isa, MATH_FAST, &b), ERR_UNSUPPORTED);
    assert_null(b);
    if (!strstr(err_text(), word)) fail_msg("\"%s\" does not mention %s", err_text(), word);
}
static void what_is_not_there_is_refused_in_one_sentence(void **state) {
    refused("cuda", "auto", "cpu and reference");
    refused("cup", "auto", "did you mean cpu");
    refused("referense", "auto", "did you mean reference");
    refused("tensorflow", "auto", "cpu and reference");
    refused("cpu", "neon", "scalar");
    refused("cpu", "", "scalar");
    refused("reference", "avx2", "scalar only");
    for (int i = 0; i < ISA_N; i++)
        if (!isa_present((cpu_isa)i)) refused("cpu", isa_name((cpu_isa)i), "this CPU does not have");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_and_mode_is_whole_and_named),
        cmocka_unit_test(what_is_not_there_is_refused_in_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
