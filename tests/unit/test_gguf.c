/* GGUF reader: what a good file gives, and the message for every kind of bad one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "gguf/gguf.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_gguf.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static const uint64_t dim_32x2[] = {32, 2};

static void assert_text_has(const char *fragment) {
    if (!strstr(err_text(), fragment)) fail_msg("\"%s\" does not say \"%s\"", err_text(), fragment);
}

/* The bytes must be refused with this code, naming the file and saying `fragment`. */
static void assert_bytes_refused(const uint8_t *bytes, size_t n, err code, const char *fragment) {
    gguf *g = NULL;
    err e = gguf_open_memory(bytes, n, "some.gguf", &g);
    if (e == OK) gguf_close(g);
    assert_int_equal(e, code);
    assert_text_has("some.gguf: ");
    assert_text_has(" at byte ");
    assert_text_has(fragment);
}

static void assert_refused(gguf_writer *w, err code, const char *fragment) {
    size_t n;
    uint8_t *bytes = gguf_writer_finish(w, &n);
    assert_bytes_refused(bytes, n, code, fragment);
    free(bytes);
}

static gguf *open_writer(gguf_writer *w, uint8_t **bytes) {
    size_t n;
    gguf *g = NULL;
    *bytes = gguf_writer_finish(w, &n);
    if (gguf_open_memory(*bytes, n, "some.gguf", &g)) fail_msg("%s", err_text());
    return g;
}

static void write_one_tensor(gguf_writer *w, const char *name) {
    float x[64];
    for (int i = 0; i < 64; i++) x[i] = (float)i;
    gguf_write_tensor(w, name, 2, dim_32x2, WTYPE_F32, x);
}

/* --- good files --- */

static void a_model_file_gives_back_what_was_written(void **state) {
    tiny_model m = tiny_model_default();
    const char *path = temp_path("tiny.gguf");
    assert_int_equal(tiny_model_write(path, &m), OK);
    gguf *g;
    assert_int_equal(gguf_open(path, &g), OK);
    assert_string_equal(gguf_path(g), path);
    assert_int_equal(gguf_n_tensors(g), 2 + 9 * m.n_layers);
    uint32_t u;
    float f;
    bool b = true;
    gguf_str s, *strs;
    const int32_t *types;
    size_t n;
    assert_int_equal(gguf_get_u32(g, "llama.embedding_length", &u), OK);
    assert_int_equal(u, m.n_embd);
    assert_int_equal(gguf_get_f32(g, "llama.rope.freq_base", &f), OK);
    assert_true(f == 100000);
    assert_int_equal(gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &b), OK);
    assert_false(b);
    assert_int_equal(gguf_get_str(g, "general.architecture", &s), OK);
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.p, "llama", 5);
    assert_int_equal(gguf_get_strs(g, "tokenizer.ggml.tokens", &strs, &n), OK);
    assert_int_equal(n, m.n_vocab);
    assert_memory_equal(strs[1].p, "<|im_start|>", strs[1].n);
    assert_int_equal(gguf_get_i32s(g, "tokenizer.ggml.token_type", &types, &n), OK);
    assert_int_equal(n, m.n_vocab);
    assert_int_equal(types[0], 3);
    assert_int_equal(types[3], 1);
    assert_true(gguf_has(g, "tokenizer.chat_template"));
    assert_false(gguf_has(g, "tokenizer.chat_templat"));
    const gguf_tensor *t;
    uint64_t dim[] = {(uint64_t)m.n_ff, (uint64_t)m.n_embd};
    assert_int_equal(gguf_tensor_demand(g, "blk.1.ffn_down.weight", 2, dim, &t), OK);
    assert_int_equal(t->type, WTYPE_Q4_1);
    assert_int_equal(t->bytes, wtype_row_bytes(WTYPE_Q4_1, dim[0]) * dim[1]);
    assert_ptr_equal(gguf_tensor_find(g, "blk.1.ffn_down.weight"), t);
    assert_null(gguf_tensor_find(g, "blk.2.ffn_down.weight"));
    gguf_close(g);
}

static void versions_2_and_3_are_read(void **state) {
    for (uint32_t v = 2; v <= 3; v++) {
        gguf_writer w = {.version = v};
        uint8_t *bytes;
        write_one_tensor(&w, "t");
        gguf *g = open_writer(&w, &bytes);
        float x[64];
        wtype_find(WTYPE_F32)->decode(gguf_tensor_find(g, "t")->data, x, 64);
        for (int i = 0; i < 64; i++) assert_true(x[i] == (float)i);
        gguf_close(g);
        free(bytes);
    }
}

static void the_alignment_key_moves_the_data(void **state) {
    for (uint32_t a = 8; a <= 4096; a *= 8) {
        gguf_writer w = {.alignment = a};
        uint8_t *bytes;
        write_one_tensor(&w, "first");
        write_one_tensor(&w, "second");
        gguf *g = open_writer(&w, &bytes);
        for (int i = 0; i < 2; i++) {
            const gguf_tensor *t = gguf_tensor_at(g, i);
            assert_int_equal((size_t)((const uint8_t *)t->data - bytes) % a, 0);
            float last;
            memcpy(&last, (const uint8_t *)t->data + 63 * 4, 4);
            assert_true(last == 63);
        }
        gguf_close(g);
        free(bytes);
    }
}

static void integers_of_every_width_are_read_if_they_fit(void **state) {
    gguf_writer w = {0};
    uint8_t *bytes;
    gguf_write_raw(&w, "u8", U8, &(uint8_t){200}, 1);
    gguf_write_raw(&w, "i8", I8, &(int8_t){-1}, 1);
    gguf_write_raw(&w, "u16", U16, &(uint16_t){60000}, 2);
    gguf_write_raw(&w, "i16", I16, &(int16_t){30000}, 2);
    gguf_write_raw(&w, "i32", I32, &(int32_t){-5}, 4);
    gguf_write_raw(&w, "u64", U64, &(uint64_t){1ull << 32}, 8);
    gguf_write_raw(&w, "i64", I64, &(int64_t){7}, 8);
    gguf_write_raw(&w, "f64", F64, &(double){0.5}, 8);
    gguf *g = open_writer(&w, &bytes);
    uint32_t u;
    float f;
    assert_int_equal(gguf_get_u32(g, "u8", &u), OK);
    assert_int_equal(u, 200);
    assert_int_equal(gguf_get_u32(g, "u16", &u), OK);
    assert_int_equal(u, 60000);
    assert_int_equal(gguf_get_u32(g, "i16", &u), OK);
    assert_int_equal(u, 30000);
    assert_int_equal(gguf_get_u32(g, "i64", &u), OK);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_u32(g, "i8", &u), ERR_FORMAT);
    assert_text_has("\"i8\" at byte ");
    assert_text_has("negative (-1)");
    assert_int_equal(gguf_get_u32(g, "i32", &u), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(g, "u64", &u), ERR_FORMAT);
    assert_text_has("4294967296, which does not fit in 32 bits");
    assert_int_equal(gguf_get_f32(g, "f64", &f), OK);
    assert_true(f == 0.5f);
    gguf_close(g);
    free(bytes);
}

static void getters_name_missing_keys_and_wrong_types(void **state) {
    gguf_writer w = {0};
    uint8_t *bytes;
    gguf_write_str(&w, "text", "x");
    gguf_write_f32(&w, "real", 1);
    gguf_write_f32s(&w, "reals", (float[]){1, 2, 3}, 3);
    gguf_write_i32s(&w, "none", NULL, 0);
    gguf *g = open_writer(&w, &bytes);
    uint32_t u;
    float f;
    bool b;
    gguf_str s, *strs;
    const int32_t *is;
    const float *fs;
    size_t n;
    assert_int_equal(gguf_get_u32(g, "absent", &u), ERR_FORMAT);
    assert_string_equal(err_text(), "some.gguf: metadata key \"absent\" is missing");
    assert_int_equal(gguf_get_u32(g, "text", &u), ERR_FORMAT);
    assert_text_has("is string, not an integer");
    assert_int_equal(gguf_get_f32(g, "text", &f), ERR_FORMAT);
    assert_int_equal(gguf_get_bool(g, "real", &b), ERR_FORMAT);
    assert_text_has("is f32, not a boolean");
    assert_int_equal(gguf_get_str(g, "real", &s), ERR_FORMAT);
    assert_int_equal(gguf_get_strs(g, "reals", &strs, &n), ERR_FORMAT);
    assert_text_has("is an array of f32, not an array of strings");
    assert_int_equal(gguf_get_i32s(g, "reals", &is, &n), ERR_FORMAT);
    assert_int_equal(gguf_get_f32s(g, "reals", &fs, &n), OK);
    assert_int_equal(n, 3);
    assert_true(fs[2] == 3);
    assert_int_equal(gguf_get_i32s(g, "none", &is, &n), OK);
    assert_int_equal(n, 0);
    gguf_close(g);
    free(bytes);
}

static void demands_compare_shape_and_type(void **state) {
    gguf_writer w = {0};
    uint8_t *bytes, block[84] = {0};
    uint64_t dim_256[] = {256}, dim_64x2[] = {64, 2};
    const gguf_tensor *t;
    write_one_tensor(&w, "t");
    gguf_write_tensor_raw(&w, "k", 1, dim_256, 10, 0, block, sizeof block);
    gguf *g = open_writer(&w, &bytes);
    assert_int_equal(gguf_tensor_demand(g, "u", 2, dim_32x2, &t), ERR_FORMAT);
    assert_text_has("tensor \"u\" is missing");
    assert_int_equal(gguf_tensor_demand(g, "t", 2, dim_64x2, &t), ERR_FORMAT);
    assert_text_has("is 32 x 2, but the model's metadata demand 64 x 2");
    assert_int_equal(gguf_tensor_demand(g, "t", 1, dim_32x2, &t), ERR_FORMAT);
    assert_int_equal(gguf_tensor_demand(g, "k", 1, dim_256, &t), ERR_UNSUPPORTED);
    assert_text_has("weight type Q2_K; supported are F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K BF16");
    gguf_close(g);
    free(bytes);
}

/* --- files that cannot be opened --- */

static void paths_that_are_no_model_are_refused(void **state) {
    gguf *g;
    assert_int_equal(gguf_open(temp_path("absent.gguf"), &g), ERR_ENV);
    assert_text_has("absent.gguf");
    assert_int_equal(gguf_open(temp_dir(), &g), ERR_FORMAT);
    assert_text_has("not a regular file");
    assert_int_equal(gguf_open(temp_file("empty.gguf", ""), &g), ERR_FORMAT);
    assert_text_has("is empty");
    assert_int_equal(gguf_open(temp_file("text.gguf", "hello, this is no model"), &g), ERR_FORMAT);
    assert_text_has("does not begin with \"GGUF\"");
}

static void other_versions_are_refused(void **state) {
    const struct {
        uint32_t version;
        const char *text;
    } cases[] = {{1, "GGUF version 1; supported are 2 and 3"}, {4, "GGUF version 4"}, {0x03000000, "big-endian"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_writer w = {.version = cases[i].version};
        write_one_tensor(&w, "t");
        assert_refused(&w, ERR_UNSUPPORTED, cases[i].text);
    }
}

static void every_truncation_is_noticed(void **state) {
    gguf_writer w = {0};
    size_t n;
    gguf_write_u32(&w, "number", 5);
    gguf_write_str(&w, "text", "some text");
    gguf_write_strs(&w, "texts", (const char *[]){"a", "bc"}, 2);
    gguf_write_i32s(&w, "integers", (int32_t[]){1, 2}, 2);
    write_one_tensor(&w, "t");
    uint8_t *bytes = gguf_writer_finish(&w, &n);
    for (size_t k = 0; k < n; k++) {
        uint8_t *part = malloc(k + 1); /* of exact size, so that sanitizers see a read past the end */
        memcpy(part, bytes, k);
        uint8_t *exact = realloc(part, k ? k : 1);
        assert_bytes_refused(exact, k, ERR_FORMAT, "some.gguf");
        free(exact);
    }
    free(bytes);
}

/* --- header and metadata --- */

static void counts_that_cannot_fit_are_refused(void **state) {
    const int64_t claims[] = {1, 1000, INT32_MAX, INT64_MAX - 10, -2};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        gguf_writer w = {.claim_kvs = claims[i]};
        gguf_write_u32(&w, "number", 5);
        assert_refused(&w, ERR_FORMAT, "at byte ");
        gguf_writer v = {.claim_tensors = claims[i]};
        write_one_tensor(&v, "t");
        assert_refused(&v, ERR_FORMAT, "at byte ");
    }
    gguf_writer w = {.claim_kvs = INT32_MAX};
    gguf_write_u32(&w, "number", 5);
    assert_refused(&w, ERR_FORMAT, "number of metadata keys at byte 16: 2147483648 cannot fit");
}

static void bad_metadata_values_are_refused(void **state) {
    const uint64_t huge = UINT64_MAX / 2;
    uint8_t array[12 + 8] = {0};
    const struct {
        uint32_t type;
        const void *value;
        size_t n;
        const char *text;
    } cases[] = {
        {99, "abcd", 4, "unknown value type 99"},
        {BOOL, "\2", 1, "boolean 2 is neither 0 nor 1"},
        {STRING, &huge, 8, "a string of 9223372036854775807 bytes runs past the end"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_writer w = {0};
        gguf_write_raw(&w, "some.key", cases[i].type, cases[i].value, cases[i].n);
        assert_refused(&w, ERR_FORMAT, "metadata key \"some.key\" at byte ");
        gguf_write_raw(&w, "some.key", cases[i].type, cases[i].value, cases[i].n);
        assert_refused(&w, ERR_FORMAT, cases[i].text);
    }
    const struct {
        uint32_t elem;
        uint64_t n;
        err code;
        const char *text;
    } arrays[] = {
        {ARRAY, 1, ERR_UNSUPPORTED, "arrays of arrays"},
        {55, 1, ERR_FORMAT, "unknown element type 55"},
        {U32, 1ull << 62, ERR_FORMAT, "array elements run past the end"}, /* times 4 is 0 in 64 bits */
        {STRING, 1ull << 61, ERR_FORMAT, "array elements run past the end"},
        {F64, 1000, ERR_FORMAT, "1000 array elements run past the end"},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        gguf_writer w = {0};
        memcpy(array, &arrays[i].elem, 4);
        memcpy(array + 4, &arrays[i].n, 8);
        gguf_write_raw(&w, "list", ARRAY, array, sizeof array);
        assert_refused(&w, arrays[i].code, arrays[i].text);
    }
}

static void repeated_names_are_refused(void **state) {
    gguf_writer w = {0};
    gguf_write_u32(&w, "same", 1);
    gguf_write_u32(&w, "other", 1);
    gguf_write_str(&w, "same", "x");
    assert_refused(&w, ERR_FORMAT, "metadata key \"same\" at byte 65: it appears twice");
    write_one_tensor(&w, "same");
    write_one_tensor(&w, "same");
    assert_refused(&w, ERR_FORMAT, "tensor \"same\" at byte ");
    write_one_tensor(&w, "");
    assert_refused(&w, ERR_FORMAT, "tensor 0 at byte 24: its name has 0 bytes");
}

static void bad_alignments_are_refused(void **state) {
    for (uint32_t a = 1; a < 100; a++) {
        if (a == 8 || a == 16 || a == 32 || a == 64) continue;
        gguf_writer w = {.alignment = a};
        write_one_tensor(&w, "t");
        assert_refused(&w, ERR_FORMAT, "is not a power of two of at least 8");
    }
    gguf_writer w = {0};
    gguf_write_str(&w, "general.alignment", "32");
    write_one_tensor(&w, "t");
    assert_refused(&w, ERR_FORMAT, "its type is string, not u32");
}

/* --- tensors --- */

static void impossible_shapes_are_refused(void **state) {
    uint64_t big = 1ull << 33;
    const struct {
        uint32_t n_dims;
        uint64_t dim[5];
        uint32_t type;
        err code;
        const char *text;
    } cases[] = {
        {0, {0}, WTYPE_F32, ERR_FORMAT, "0 dimensions, allowed are 1 to 4"},
        {5, {1, 1, 1, 1, 1}, WTYPE_F32, ERR_FORMAT, "5 dimensions"},
        {2, {4, 0}, WTYPE_F32, ERR_FORMAT, "dimension 1 is 0"},
        {2, {big, big}, WTYPE_F32, ERR_FORMAT, "dimension 1 (8589934592) makes the number of values overflow"},
        {4, {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16}, WTYPE_F32, ERR_FORMAT, "overflow"},
        {1, {UINT64_MAX}, WTYPE_F32, ERR_FORMAT, "overflow"},
        {1, {1ull << 62}, WTYPE_F32, ERR_FORMAT, "more than the file holds"}, /* times 4 is 0 in 64 bits */
        {2, {33, 2}, WTYPE_Q4_1, ERR_FORMAT, "33 columns are no multiple of the 32 values in a block of Q4_1"},
        {1, {128}, 12, ERR_FORMAT, "a block of Q4_K"},
        {1, {32}, 77, ERR_UNSUPPORTED, "unknown weight type 77; supported are F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K BF16"},
        {1, {1000}, WTYPE_F32, ERR_FORMAT, "more than the file holds"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_writer w = {0};
        gguf_write_tensor_raw(&w, "bad", cases[i].n_dims, cases[i].dim, cases[i].type, 0, "0123456789abcdef", 16);
        assert_refused(&w, cases[i].code, cases[i].text);
    }
}

static void misplaced_data_are_refused(void **state) {
    const struct {
        uint64_t first, second;
        const char *text;
    } cases[] = {
        {0, 4, "tensor \"b\" at byte "},
        {0, 20, "its offset 20 is no multiple of the alignment 32"},
        {0, 32, "its data overlaps that of tensor \"a\""},
        {64, 0, "tensor \"a\" at byte "},
        {96, 96, "its data overlaps"},
        {0, 1024, "runs past the end of the file"},
        {0, 1ull << 63, "runs past the end of the file"},
        {UINT64_MAX - 31, 0, "runs past the end of the file"}, /* plus the size wraps around */
    };
    uint8_t data[96] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_writer w = {.raw_offsets = true};
        uint64_t dim[] = {24};
        gguf_write_tensor_raw(&w, "a", 1, dim, WTYPE_F32, cases[i].first, data, 96);
        gguf_write_tensor_raw(&w, "b", 1, dim, WTYPE_F32, cases[i].second, data, 96);
        assert_refused(&w, ERR_FORMAT, cases[i].text);
    }
    gguf_writer w = {.raw_offsets = true}; /* in any order, with gaps, is fine */
    uint8_t *bytes;
    gguf_write_tensor_raw(&w, "a", 1, (uint64_t[]){8}, WTYPE_F32, 128, data, 96);
    gguf_write_tensor_raw(&w, "b", 1, (uint64_t[]){8}, WTYPE_F32, 0, data, 96);
    gguf_close(open_writer(&w, &bytes));
    free(bytes);
}

static void names_in_messages_are_printable(void **state) {
    gguf_writer w = {0};
    gguf_write_raw(&w, "evil\n\x1b[31m", 99, "", 0);
    assert_refused(&w, ERR_FORMAT, "metadata key \"evil??[31m\" at byte ");
}

static void lack_of_memory_is_reported_and_leaks_nothing(void **state) {
    tiny_model m = tiny_model_default();
    size_t n, before = mem_live_bytes(MEM_OTHER);
    uint8_t *bytes = tiny_model_bytes(&m, &n);
    gguf *g = NULL;
    int failures = 0;
    err e;
    do {
        mem_fail_nth(failures + 1);
        e = gguf_open_memory(bytes, n, "some.gguf", &g);
        mem_fail_nth(0);
        if (e == OK) break;
        assert_int_equal(e, ERR_NOMEM);
        assert_int_equal(mem_live_bytes(MEM_OTHER), before);
    } while (++failures < 1000);
    assert_true(failures >= 8);
    assert_int_equal(e, OK);
    gguf_close(g);
    assert_int_equal(mem_live_bytes(MEM_OTHER), before);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_file_gives_back_what_was_written),
        cmocka_unit_test(versions_2_and_3_are_read),
        cmocka_unit_test(the_alignment_key_moves_the_data),
        cmocka_unit_test(integers_of_every_width_are_read_if_they_fit),
        cmocka_unit_test(getters_name_missing_keys_and_wrong_types),
        cmocka_unit_test(demands_compare_shape_and_type),
        cmocka_unit_test(paths_that_are_no_model_are_refused),
        cmocka_unit_test(other_versions_are_refused),
        cmocka_unit_test(every_truncation_is_noticed),
        cmocka_unit_test(counts_that_cannot_fit_are_refused),
        cmocka_unit_test(bad_metadata_values_are_refused),
        cmocka_unit_test(repeated_names_are_refused),
        cmocka_unit_test(bad_alignments_are_refused),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(misplaced_data_are_refused),
        cmocka_unit_test(names_in_messages_are_printable),
        cmocka_unit_test(lack_of_memory_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
