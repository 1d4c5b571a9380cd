/* Mutates head profiles: bytes flipped, lines doubled, cut and shuffled, numbers changed, below a right or a wrong checksum. What is read must
 * rise along every row and be written and read again as it was; what is not must say why.
 *
 *   fuzz_profile [seconds] [seed] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "policy/profile.h"
#include "tests/support/fuzz.h"
#include "tests/support/temp.h"

static uint64_t n_loaded, n_refused;

static char *valid(rng *r, size_t *n) {
    head_profile *p;
    char *text = NULL;
    fuzz_check(head_profile_new(1 + (int)rng_below(r, 3), 1 + (int)rng_below(r, 3), &p) == OK, "memory");
    memset(p->model_sha256, 'a', 64);
    p->origin = mem_strdup(rng_below(r, 2) ? "a text" : "");
    for (int h = 0; h < p->n_layers * p->n_kv; h++)
        for (int j = 0, x = 0; j < PROFILE_POINTS; j++) {
            x += (int)rng_below(r, 128);
            p->table[h * PROFILE_POINTS + j] = (uint16_t)(x > 65535 ? 65535 : x);
        }
    fuzz_check(head_profile_write(temp_path("valid.profile"), p) == OK, "a valid profile is not written");
    fuzz_check(io_read_file(temp_path("valid.profile"), 1 << 20, &text, n) == OK, "a written file is not read");
    head_profile_free(p);
    return text;
}

/* Lines above the checksum get a right one, so that damage behind it is seen. */
static char *with_checksum(const char *text, size_t n) {
    char hex[17];
    hash_hex64(hash_bytes(text, n, 0), hex);
    return mem_sprintf("%.*schecksum %s\n", (int)n, text, hex);
}

static void damage(char *text, size_t n, rng *r) {
    static const char numbers[] = "0123456789 -\n\0+xe99999";
    for (int k = 1 + (int)rng_below(r, 4); k > 0; k--) {
        size_t at = rng_below(r, 3) ? rng_below(r, (uint32_t)(n < 300 ? n : 300)) : rng_below(r, (uint32_t)n);
        switch (rng_below(r, 4)) {
        case 0: text[at] ^= (char)(1 << rng_below(r, 8)); break;
        case 1: text[at] = numbers[rng_below(r, sizeof numbers - 1)]; break;
        case 2: {
            size_t len = rng_below(r, 40), to = rng_below(r, (uint32_t)n);
            if (at + len <= n && to + len <= n) memmove(text + to, text + at, len);
            break;
        }
        default: memset(text + at, '9', at + 12 < n ? 12 : 0); break;
        }
    }
}

static void one(rng *r) {
    size_t n, size;
    char *text = valid(r, &n), *file = text;
    const char *path = temp_path("fuzz.profile");
    bool right = rng_below(r, 2);
    if (right) {
        size = n - (sizeof "checksum 0123456789abcdef\n" - 1);
        if (rng_below(r, 8)) damage(text, size, r);
        file = with_checksum(text, strnlen(text, size));
        n = strlen(file);
    } else if (rng_below(r, 8)) {
        damage(text, n, r);
    }
    if (rng_below(r, 6) == 0) n = rng_below(r, (uint32_t)n + 1);
    fuzz_check(io_write_file(path, file, n) == OK, "a file is not written");
    if (file != text) mem_free(file);
    mem_free(text);
    head_profile *p, *again;
    err e = head_profile_read(path, &p);
    n_loaded += e == OK;
    n_refused += e != OK;
    fuzz_check(e == OK || (e == ERR_FORMAT && strstr(err_text(), "fuzz.profile:")), "a refusal names no line");
    if (e != OK) return;
    for (int h = 0; h < p->n_layers * p->n_kv; h++)
        for (int j = 1; j < PROFILE_POINTS; j++) fuzz_check(p->table[h * PROFILE_POINTS + j] >= p->table[h * PROFILE_POINTS + j - 1], "a row falls");
    fuzz_check(head_profile_value(p, 0, 0, 0, 1) <= 1 && head_profile_value(p, p->n_layers - 1, p->n_kv - 1, 9999, 10000) <= 1, "a value is above 1");
    fuzz_check(head_profile_write(path, p) == OK && head_profile_read(path, &again) == OK, "what was read cannot be written and read");
    fuzz_check(again->n_layers == p->n_layers && again->n_kv == p->n_kv && !strcmp(again->origin, p->origin) && !strcmp(again->model_sha256, p->model_sha256) &&
              !memcmp(again->table, p->table, (size_t)p->n_layers * (size_t)p->n_kv * PROFILE_POINTS * sizeof *p->table),
          "a profile changes from reading to writing");
    head_profile_free(again);
    head_profile_free(p);
}

int main(int argc, char **argv) {
    fuzz_begin("fuzz_profile", argc, argv, NULL);
    while (fuzz_next()) {
        rng r = rng_make(fuzz_seed, fuzz_iteration);
        one(&r);
    }
    printf("fuzz_profile: %" PRIu64 " files, %" PRIu64 " loaded, %" PRIu64 " refused, seed %" PRIu64 "\n", fuzz_count(), n_loaded, n_refused, fuzz_seed);
    fuzz_check(n_loaded > 0 && n_refused > 0, "nothing was loaded, or nothing refused");
    return 0;
}
