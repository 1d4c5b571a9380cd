/* Memory accounting and error texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"

static void blocks_are_aligned_zeroed_and_counted(void **state) {
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        size_t before = mem_live_bytes(MEM_SCRATCH);
        unsigned char *p;
        assert_int_equal(mem_alloc(MEM_SCRATCH, bytes, &p), OK);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < bytes; i++) assert_int_equal(p[i], 0);
        assert_int_equal(mem_live_bytes(MEM_SCRATCH), before + (bytes ? bytes : 64));
        memset(p, 0xff, bytes);
        mem_free(p);
        assert_int_equal(mem_live_bytes(MEM_SCRATCH), before);
    }
    mem_free(NULL);
}

static void peaks_are_per_tag_and_can_be_reset(void **state) {
    char *a, *b;
    mem_reset_peaks();
    size_t base = mem_live_bytes(MEM_LOGITS), policy = mem_peak_bytes(MEM_POLICY);
    assert_int_equal(mem_alloc(MEM_LOGITS, 1000, &a), OK);
    assert_int_equal(mem_alloc(MEM_LOGITS, 500, &b), OK);
    mem_free(a);
    assert_int_equal(mem_live_bytes(MEM_LOGITS), base + 500);
    assert_int_equal(mem_peak_bytes(MEM_LOGITS), base + 1500);
    assert_int_equal(mem_peak_bytes(MEM_POLICY), policy);
    mem_reset_peaks();
    assert_int_equal(mem_peak_bytes(MEM_LOGITS), base + 500);
    mem_account(MEM_LOGITS, 4096);
    mem_account(MEM_LOGITS, -4096);
    assert_int_equal(mem_peak_bytes(MEM_LOGITS), base + 4596);
    mem_free(b);
}

static void impossible_sizes_are_errors_that_name_tag_and_size(void **state) {
    void *p = state;
    assert_int_equal(mem_alloc(MEM_SNAPSHOT, (size_t)1 << 60, &p), ERR_NOMEM);
    assert_null(p);
    assert_string_equal(err_text(), "out of memory: cannot allocate 1152921504606846976 bytes for snapshot");
    assert_int_equal(mem_alloc(MEM_SNAPSHOT, SIZE_MAX, &p), ERR_NOMEM);
    assert_null(p);
}

static void the_nth_allocation_can_be_made_to_fail(void **state) {
    void *a, *b, *c;
    mem_fail_nth(2);
    assert_int_equal(mem_alloc(MEM_OTHER, 8, &a), OK);
    assert_int_equal(mem_alloc(MEM_OTHER, 8, &b), ERR_NOMEM);
    assert_int_equal(mem_alloc(MEM_OTHER, 8, &c), OK);
    mem_fail_nth(1);
    mem_fail_nth(0);
    assert_int_equal(mem_alloc(MEM_OTHER, 8, &b), OK);
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

static void reserve_grows_and_never_shrinks(void **state) {
    char *p = NULL;
    size_t cap = 0, before = mem_live_bytes(MEM_SCRATCH);
    assert_int_equal(mem_reserve(MEM_SCRATCH, 100, &p, &cap), OK);
    assert_int_equal(cap, 100);
    char *first = p;
    assert_int_equal(mem_reserve(MEM_SCRATCH, 50, &p, &cap), OK);
    assert_ptr_equal(p, first);
    assert_int_equal(mem_reserve(MEM_SCRATCH, 5000, &p, &cap), OK);
    assert_int_equal(cap, 5000);
    assert_int_equal(mem_live_bytes(MEM_SCRATCH), before + 5000);
    mem_fail_nth(1);
    assert_int_equal(mem_reserve(MEM_SCRATCH, 6000, &p, &cap), ERR_NOMEM);
    assert_null(p);
    assert_int_equal(cap, 0);
    assert_int_equal(mem_live_bytes(MEM_SCRATCH), before);
}

static void strings_are_formatted_whole(void **state) {
    char *s = mem_sprintf("%0300d|%s", 7, "x");
    assert_int_equal(strlen(s), 302);
    assert_string_equal(s + 299, "7|x");
    char *t = mem_strdup(s);
    assert_string_equal(s, t);
    mem_free(s);
    mem_free(t);
}

static void resident_memory_is_read(void **state) {
    assert_true(mem_rss_bytes() > 100 * 1024);
}

static void errors_keep_cause_and_place(void **state) {
    assert_int_equal(ERR(ERR_FORMAT, "3 tensors, at most %d", 2), ERR_FORMAT);
    assert_non_null(strstr(err_place(), "test_base_mem.c:"));
    assert_int_equal(err_wrap(ERR_FORMAT, "model %s", "x"), ERR_FORMAT);
    assert_string_equal(err_text(), "model x: 3 tensors, at most 2");
    assert_int_equal(ERR(ERR_IO, "again: %s", err_text()), ERR_IO); /* the argument is the buffer itself */
    assert_string_equal(err_text(), "again: model x: 3 tensors, at most 2");
    assert_int_equal(err_wrap(OK, "nothing"), OK);
    assert_string_equal(err_text(), "again: model x: 3 tensors, at most 2");
}

static void error_texts_are_one_line_however_long(void **state) {
    char big[5000];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = 0;
    big[3] = '\n';
    big[4] = '\033';
    assert_int_equal(ERR(ERR_IO, "%s", big), ERR_IO);
    assert_int_equal(strncmp(err_text(), "aaa  aaa", 8), 0);
    for (int i = 0; i < 3; i++) assert_int_equal(err_wrap(ERR_IO, "%s", big), ERR_IO);
    assert_true(strlen(err_text()) < sizeof big);
    assert_null(strchr(err_text(), '\n'));
}

static void exit_statuses_are_those_documented(void **state) {
    const int want[] = {0, 2, 3, 1, 1, 1, 1, 4, 1, 130};
    for (int c = OK; c <= ERR_INTERRUPTED; c++) assert_int_equal(err_exit_status((err)c), want[c]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_zeroed_and_counted),
        cmocka_unit_test(peaks_are_per_tag_and_can_be_reset),
        cmocka_unit_test(impossible_sizes_are_errors_that_name_tag_and_size),
        cmocka_unit_test(the_nth_allocation_can_be_made_to_fail),
        cmocka_unit_test(reserve_grows_and_never_shrinks),
        cmocka_unit_test(strings_are_formatted_whole),
        cmocka_unit_test(resident_memory_is_read),
        cmocka_unit_test(errors_keep_cause_and_place),
        cmocka_unit_test(error_texts_are_one_line_however_long),
        cmocka_unit_test(exit_statuses_are_those_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
