/* Op tables of the two CPU backends: "cpu", one table per ISA path and math mode, and "reference". */
#include <stdio.h>
#include <string.h>
#include "backend/backend.h"
#include "kernels/cpu/attn.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/signals.h"

/* Rows made by `path` and prepared for linear layers by `row`. */
#define PREPARE_OPS(name, path, row)                                                                                   \
    static void norm_prepare_##name(const par *p, const float *x, const float *weight, float eps, float *y, act *a) {  \
        norm_prepare_##path(p, x, weight, eps, y, a, row);                                                             \
    }                                                                                                                  \
    static void gate_prepare_##name(const par *p, bool gelu, const float *gate, const float *up, float *y, act *a) {   \
        gate_prepare_##path(p, gelu, gate, up, y, a, row);                                                             \
    }
#define LINEAR_OPS(isa, path)                                                                                          \
    static void linear_fast_##isa(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy,            \
                                  bool accumulate) {                                                                   \
        linear_fast(&linear_##isa, p, w, a, y, ldy, accumulate);                                                       \
    }                                                                                                                  \
    static void linear_exact_##isa(const par *p, const packed_weight *w, const act *a, float *y, size_t ldy,           \
                                   bool accumulate) {                                                                  \
        linear_exact(&linear_##isa, p, w, a, y, ldy, accumulate);                                                      \
    }                                                                                                                  \
    static void act_prepare_fast_##isa(const par *p, act *a) {                                                         \
        act_prepare_fast(&linear_##isa, p, a);                                                                         \
    }                                                                                                                  \
    static void act_row_##isa(const act *a, int row) {                                                                 \
        act_row_fast(&linear_##isa, a, row);                                                                           \
    }                                                                                                                  \
    PREPARE_OPS(fast_##isa, path, act_row_##isa)                                                                       \
    PREPARE_OPS(exact_##isa, path, NULL)
LINEAR_OPS(scalar, scalar)
LINEAR_OPS(avx2, avx2)
LINEAR_OPS(avxvnni, avx2)
LINEAR_OPS(avx512, avx512)
PREPARE_OPS(reference_fast, reference, act_row_reference)
PREPARE_OPS(reference_exact, reference, NULL)

#define TABLE(backend_name, isa_string, path, math_value, pack, bytes, prepare, rows, linear_op, prefill, columns, form, decode) \
    {                                                                                                                  \
        .name = backend_name, .isa = isa_string, .math = math_value, .weight_pack = pack, .weight_free = weight_free,  \
        .weight_gather = weight_gather, .weight_run_free = weight_run_free,                                             \
        .weight_bytes = weight_bytes, .act_bytes = bytes, .act_prepare = prepare, .linear = linear_op,                 \
        .norm_prepare = norm_prepare_##rows, .gate_prepare = gate_prepare_##rows, .rms_norm = rms_norm_##path, .rope = rope_##path, \
        .round_f16 = round_f16_##path, .row_moments = row_moments_##path,                                              \
        .prefill_scratch_bytes = attn_prefill_scratch_bytes, .attn_prefill = prefill,                                  \
        .mass_scratch_bytes = attn_mass_scratch_bytes, .attn_mass = attn_mass_##path,                                  \
        .signal_scratch_bytes = signal_scratch_bytes, .attn_columns = columns,                                        \
        .item_form = form, .attn_change = attn_change_##path,                                              \
        .attn_scratch_bytes = attn_decode_scratch_bytes, .attn_decode = decode,                                        \
        .page_put = page_put_##path, .page_move = page_move_##path,                                                    \
    }
/* `lin` is the path of linear layers, `path` that of everything else. */
#define CPU_TABLES(isa_string, path, lin, prefill_fast, columns_fast, form_fast)                                       \
    {                                                                                                                  \
        [MATH_FAST] = TABLE("cpu", isa_string, path, MATH_FAST, weight_pack_panels, act_bytes_fast,                    \
                            act_prepare_fast_##lin, fast_##lin, linear_fast_##lin, prefill_fast, columns_fast, form_fast,          \
                            attn_decode_words_##path),                                                                 \
        [MATH_EXACT] = TABLE("cpu", isa_string, path, MATH_EXACT, weight_pack_panels, act_bytes_exact,                 \
                             act_prepare_none, exact_##lin, linear_exact_##lin, attn_prefill_##path, attn_columns_##path,          \
                             item_form_##path, attn_decode_##path),                                                    \
    }

static const backend tables[ISA_N][2] = {
    [ISA_SCALAR] = CPU_TABLES("scalar", scalar, scalar, attn_prefill_scalar, attn_columns_scalar, item_form_scalar),
    [ISA_AVX2] = CPU_TABLES("avx2", avx2, avx2, attn_prefill_avx2, attn_columns_avx2, item_form_avx2),
    [ISA_AVX_VNNI] = CPU_TABLES("avx-vnni", avx2, avxvnni, attn_prefill_avx2, attn_columns_avx2, item_form_avx2),
    [ISA_AVX512] = CPU_TABLES("avx512-vnni", avx512, avx512, attn_prefill_avx512, attn_columns_avx512, item_form_avx512_int8),
    [ISA_AVX512_BF16] = CPU_TABLES("avx512-bf16", avx512, avx512, attn_prefill_avx512_bf16, attn_columns_avx512_bf16,
                                   item_form_avx512_int8), /* the prompt's attention, in fast */
};
static const backend reference[2] = {
    [MATH_FAST] = TABLE("reference", "scalar", reference, MATH_FAST, weight_pack_rows, act_bytes_fast,
                        act_prepare_reference, reference_fast, linear_reference_fast, attn_prefill_reference, attn_columns_reference,
                        item_form_reference, attn_decode_reference),
    [MATH_EXACT] = TABLE("reference", "scalar", reference, MATH_EXACT, weight_pack_rows, act_bytes_exact,
                         act_prepare_none, reference_exact, linear_reference_exact, attn_prefill_reference, attn_columns_reference,
                        item_form_reference, attn_decode_reference),
};

int backend_isas(const char **names, int max) {
    int n = 0;
    for (int preferred = 1; preferred >= 0; preferred--)
        for (int isa = ISA_N - 1; isa >= 0; isa--)
            if (isa_present((cpu_isa)isa) && isa_preferred((cpu_isa)isa) == (preferred == 1)) {
                if (n < max) names[n] = isa_name((cpu_isa)isa);
                n++;
            }
    return n < max ? n : max;
}

static err open_cpu(const char *isa, math_mode math, const backend **out) {
    bool known = false;
    for (int i = ISA_N - 1; i >= 0; i--) { /* best first */
        bool named = !strcmp(isa, isa_name((cpu_isa)i));
        known |= named;
        if ((named && isa_present((cpu_isa)i)) || (!strcmp(isa, "auto") && isa_preferred((cpu_isa)i))) {
            *out = &tables[i][math];
            return OK;
        }
    }
    const char *names[ISA_N];
    char list[128] = "";
    int n = backend_isas(names, ISA_N);
    for (int i = 0; i < n; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    if (known) return ERR(ERR_UNSUPPORTED, "this CPU does not have isa %s; it has %s", isa, list);
    return ERR(ERR_UNSUPPORTED, "there is no isa \"%s\"; this CPU has %s, or use auto", isa, list);
}

static err open_reference(const char *isa, math_mode math, const backend **out) {
    if (strcmp(isa, "auto") && strcmp(isa, "scalar"))
        return ERR(ERR_UNSUPPORTED, "backend reference has isa scalar only, not \"%s\"", isa);
    *out = &reference[math];
    return OK;
}

const backend_entry backend_entry_cpu = {"cpu", open_cpu};
const backend_entry backend_entry_reference = {"reference", open_reference};
