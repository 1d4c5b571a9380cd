#include "kernels/cpu/codec.h"
#include <string.h>
#include "kernels/cpu/isa.h"

static cpu_isa find_isa(const char *isa) {
    for (int i = ISA_N - 1; i > ISA_SCALAR; i--) {
        if (!strcmp(isa, isa_name((cpu_isa)i)) && isa_present((cpu_isa)i)) return (cpu_isa)i;
    }
    return ISA_SCALAR;
}

page_put_fn codec_put_best(const char *isa) {
    static const page_put_fn put[ISA_N] = {page_put, page_put_avx2, page_put_avx2, page_put_avx512, page_put_avx512};
    return put[find_isa(isa)];
}

page_move_fn codec_move_best(const char *isa) {
    static const page_move_fn move[ISA_N] = {page_move, page_move_avx2, page_move_avx2, page_move_avx512, page_move_avx512};
    return move[find_isa(isa)];
}
