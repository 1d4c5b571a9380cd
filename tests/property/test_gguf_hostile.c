/* Hostile model files: every place of a GGUF that says something - metadata types, numbers, counts, strings, and the names, shapes, types
 * and offsets of tensors - is replaced by other values, one at a time, for models of each architecture and weight type. A file is opened as
 * an engine and runs, or is refused with a text; memory stays within HEAP_PER_BYTE times the file's own size plus HEAP_FIXED. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "tests/support/engines.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

enum { HEAP_PER_BYTE = 4, HEAP_FIXED = 3 << 20 }; /* fixed: RoPE tables of up to the file plus 2 MB, lists of up to 1024 layers */
#ifdef __SANITIZE_ADDRESS__
enum { PER_PLACE_TENTHS = 2 };
#else
enum { PER_PLACE_TENTHS = 10 };
#endif

/* --- places of a valid file --- */

typedef struct place {
    size_t at;
    int bytes;
} place;

typedef struct file_map {
    const uint8_t *p;
    size_t n, at;
    place *places;
    int n_places;
} file_map;

static uint64_t number(const file_map *f, size_t at, int bytes) {
    uint64_t v = 0;
    memcpy(&v, f->p + at, (size_t)bytes);
    return v;
}

static uint64_t mark(file_map *f, int bytes) {
    f->places = realloc(f->places, sizeof(place) * (size_t)(f->n_places + 1));
    f->places[f->n_places++] = (place){f->at, bytes};
    f->at += (size_t)bytes;
    return number(f, f->at - (size_t)bytes, bytes);
}

static void mark_string(file_map *f) {
    uint64_t n = mark(f, 8);
    size_t end = f->at + n;
    if (n) mark(f, 1);
    if (n > 2) {
        f->at = end - 1;
        mark(f, 1);
    }
    f->at = end;
}

static void mark_value(file_map *f, uint32_t type) {
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) return mark_string(f);
    if (type != 9) return (void)mark(f, bytes[type]);
    uint32_t elem = (uint32_t)mark(f, 4);
    uint64_t n = mark(f, 8);
    for (uint64_t i = 0; i < n; i++) { /* of long arrays the ends and every 32nd entry */
        int keep = f->n_places;
        mark_value(f, elem);
        if (i >= 3 && i + 3 < n && i % 32) f->n_places = keep;
    }
}

static file_map map_file(const uint8_t *p, size_t n) {
    file_map f = {.p = p, .n = n};
    mark(&f, 4);
    mark(&f, 4);
    uint64_t n_tensors = mark(&f, 8), n_kvs = mark(&f, 8);
    for (uint64_t i = 0; i < n_kvs; i++) {
        mark_string(&f);
        mark_value(&f, (uint32_t)mark(&f, 4));
    }
    for (uint64_t i = 0; i < n_tensors; i++) {
        mark_string(&f);
        uint64_t n_dims = mark(&f, 4);
        for (uint64_t d = 0; d < n_dims; d++) mark(&f, 8);
        mark(&f, 4);
        mark(&f, 8);
    }
    assert_true(f.at < n);
    return f;
}

/* --- what is done with a changed file --- */

static int n_opened, n_refused;
static double worst_heap; /* bytes per byte of the file */

static size_t heap_peak(void) {
    size_t sum = 0;
    for (int t = 0; t < MEM_N_TAGS; t++) sum += mem_peak_bytes((mem_tag)t);
    return sum;
}
static size_t heap_live(void) {
    size_t sum = 0;
    for (int t = 0; t < MEM_N_TAGS; t++) sum += mem_live_bytes((mem_tag)t);
    return sum;
}

static void run_a_little(engine *e) {
    node *tree;
    policy *p = preset_policy(e, "full", NULL, &tree);
    cache_space *space;
    seq *s;
    token_list ids = {0};
    assert_ok(tokenizer_encode(engine_tokenizer(e), "ab <|im_end|>", 13, true, true, &ids));
    for (int i = 0; ids.n < 3; i++) assert_ok(token_list_push(&ids, i));
    if (engine_context(e) >= ids.n + 2 && cache_space_create(e, p, 64, 0, &space) == OK) {
        float *logits = calloc((size_t)engine_model(e)->p.n_vocab * 2, sizeof(float));
        assert_ok(seq_create(e, space, p, 1, &s));
        if (seq_prefill(s, ids.ids, ids.n, logits) == OK) (void)!seq_extend(s, ids.ids, 2, logits);
        seq_destroy(s);
        cache_space_destroy(space);
        free(logits);
    }
    token_list_free(&ids);
    policy_destroy(p);
    node_free(tree);
}

static void try_file(const char *what, const uint8_t *bytes, size_t n, const place *at, math_mode math) {
    const char *path = temp_path("hostile.gguf");
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    engine *e;
    engine_conf c = {.model_path = path, .backend = "cpu", .isa = "auto", .math = math, .threads = 1};
    size_t before = heap_live();
    mem_reset_peaks();
    err r = engine_open(&c, &e);
    size_t peak = heap_peak() - before;
    if ((double)peak / (double)n > worst_heap) worst_heap = (double)peak / (double)n;
    if (peak > HEAP_FIXED + HEAP_PER_BYTE * n)
        fail_msg("%s, %d bytes at %zu: opening took %zu bytes for a file of %zu", what, at->bytes, at->at, peak, n);
    if (r != OK) {
        n_refused++;
        if (!*err_text()) fail_msg("%s, %d bytes at %zu: refused without a text", what, at->bytes, at->at);
    } else {
        n_opened++;
        run_a_little(e);
        engine_close(e);
    }
    if (heap_live() != before) fail_msg("%s, %d bytes at %zu: %zu bytes are lost", what, at->bytes, at->at, heap_live() - before);
}

static uint64_t hostile_value(rng *r, uint64_t old) {
    static const uint64_t values[] = {0, 1, 2, 7, 8, 9, 31, 255, 256, 1024, 65535, 65536, 1 << 20, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX,
                                      UINT64_C(0x8000000000000000), UINT64_C(0x7ff8000000000000), 0x7fc00000, 0xff800000};
    int n = sizeof values / sizeof *values, pick = (int)rng_below(r, (uint64_t)n + 6);
    if (pick < n) return values[pick];
    if (pick == n) return old + 1;
    if (pick == n + 1) return old - 1;
    if (pick == n + 2) return old * 2;
    if (pick == n + 3) return old ^ (UINT64_C(1) << rng_below(r, 64));
    return rng_u64(r);
}

static void check_file(const char *what, uint8_t *bytes, size_t n, math_mode math, rng *r) {
    file_map f = map_file(bytes, n);
    int n_cases = f.n_places * PER_PLACE_TENTHS / 10;
    for (int i = 0; i < n_cases; i++) {
        const place *at = &f.places[PER_PLACE_TENTHS < 10 ? (int)rng_below(r, (uint64_t)f.n_places) : i];
        uint8_t old[8];
        uint64_t v = hostile_value(r, number(&f, at->at, at->bytes));
        memcpy(old, bytes + at->at, 8);
        memcpy(bytes + at->at, &v, (size_t)at->bytes);
        try_file(what, bytes, n, at, math);
        memcpy(bytes + at->at, old, 8);
    }
    free(f.places);
}

static uint8_t *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s is missing", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n);
    assert_true(fread(p, 1, *n, f) == *n);
    fclose(f);
    return p;
}

static void every_architecture(void **state) {
    static const char *const names[] = {"llama_3", "llama_linear", "mistral", "qwen2", "qwen3", "gemma3"};
    rng r = rng_make(seed_get(), 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        size_t n;
        snprintf(path, sizeof path, "tests/golden/arch/%s.gguf", names[i]);
        uint8_t *bytes = read_file(path, &n);
        check_file(names[i], bytes, n, i % 2 ? MATH_FAST : MATH_EXACT, &r);
        free(bytes);
    }
}

/* Blocks of random bytes: scales may be infinite or no numbers. */
static void add_matrix(gguf_writer *w, const char *name, wtype t, int cols, int rows, rng *r) {
    uint64_t dim[2] = {(uint64_t)cols, (uint64_t)rows};
    size_t n = wtype_row_bytes(t, (size_t)cols) * (size_t)(rows ? rows : 1);
    uint8_t *data = malloc(n);
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)rng_u64(r);
    gguf_write_tensor_raw(w, name, rows ? 2 : 1, dim, t, 0, data, n);
    free(data);
}

static uint8_t *model_of_type(wtype t, size_t *n, rng *r) {
    enum { D = 256, Q = 256, KV = 64 };
    static const struct {
        const char *name;
        int cols, rows;
    } parts[] = {{"ffn_down", D, D}, {"ffn_gate", D, D}, {"ffn_up", D, D}, {"attn_k", D, KV}, {"attn_output", Q, D}, {"attn_q", D, Q}, {"attn_v", D, KV}};
    tiny_model m = tiny_model_default();
    m.n_layers = 1;
    m.n_embd = m.n_ff = D;
    m.n_head = Q / m.head_dim;
    m.n_vocab = 259;
    gguf_writer w = {0};
    tiny_model_add_metadata(&w, &m);
    add_matrix(&w, "token_embd.weight", t, D, m.n_vocab, r);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[48];
        snprintf(name, sizeof name, "blk.0.%s.weight", parts[i].name);
        add_matrix(&w, name, t, parts[i].cols, parts[i].rows, r);
    }
    add_matrix(&w, "blk.0.attn_norm.weight", WTYPE_F32, D, 0, r);
    add_matrix(&w, "blk.0.ffn_norm.weight", t, D, 0, r);
    add_matrix(&w, "output_norm.weight", WTYPE_F16, D, 0, r);
    return gguf_writer_finish(&w, n);
}

static void every_weight_type(void **state) {
    static const wtype types[] = {WTYPE_Q4_0, WTYPE_Q4_1, WTYPE_Q5_0, WTYPE_Q5_1, WTYPE_Q8_0, WTYPE_Q4_K, WTYPE_Q5_K, WTYPE_Q6_K, WTYPE_F16, WTYPE_BF16, WTYPE_F32};
    rng r = rng_make(seed_get(), 2);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t n;
        uint8_t *bytes = model_of_type(types[i], &n, &r);
        check_file(wtype_find(types[i])->name, bytes, n, i % 2 ? MATH_FAST : MATH_EXACT, &r);
        free(bytes);
    }
}

static void changed_files_were_of_both_kinds(void **state) {
    printf("# %d files opened and ran, %d were refused; most heap while opening: %.1f bytes per byte of the file\n", n_opened, n_refused, worst_heap);
    assert_true(n_opened > 50 && n_refused > 200);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture),
        cmocka_unit_test(every_weight_type),
        cmocka_unit_test(changed_files_were_of_both_kinds),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
