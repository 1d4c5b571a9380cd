/* Attention compiled for one ISA path: primitives of that path, then the bodies shared by all paths. */
#include <math.h>
#include <string.h>
#include "kernels/cpu/attn.h"
#include "kernels/cpu/attn_plan.h"
#include "kernels/cpu/signals.h"
#include "kernels/cpu/vmath.h"

#define ATTN_NAME(op) op##_scalar
#include "kernels/cpu/attn_vec_scalar.inc"
#include "kernels/cpu/attn_gemm.inc"
#include "kernels/cpu/attn_tile.inc"
#include "kernels/cpu/attn_fused.inc"
#include "kernels/cpu/attn_cut.inc"
#include "kernels/cpu/attn_rows.inc"
#include "kernels/cpu/attn_f32.inc"
#include "kernels/cpu/attn_words_scalar.inc"
#include "kernels/cpu/attn_codes.inc"
#include "kernels/cpu/attn_weights.inc"
#include "kernels/cpu/attn_units.inc"
#include "kernels/cpu/attn_decode.inc"
#include "kernels/cpu/attn_prefill.inc"
#include "kernels/cpu/attn_mass.inc"
#include "kernels/cpu/attn_signals.inc"
