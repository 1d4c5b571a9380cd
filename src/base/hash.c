#include "base/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

uint64_t hash_bytes(const void *p, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(p, n, seed);
}

void hash_hex64(uint64_t h, char out[17]) {
    snprintf(out, 17, "%016" PRIx64, h);
}

static err digest_stream(FILE *f, const char *path, EVP_MD_CTX *ctx, char out[65]) {
    enum { CHUNK = 1 << 18 };
    unsigned char *buf;
    TRY(mem_alloc(MEM_OTHER, CHUNK, &buf));
    bool ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
    size_t n;
    while (ok && (n = fread(buf, 1, CHUNK, f)) > 0) ok = EVP_DigestUpdate(ctx, buf, n) == 1;
    int read_errno = ferror(f) ? errno : 0;
    mem_free(buf);
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned md_n = 0;
    if (read_errno) return ERR(ERR_IO, "cannot read %s: %s", path, strerror(read_errno));
    if (!ok || EVP_DigestFinal_ex(ctx, md, &md_n) != 1 || md_n != 32)
        return ERR(ERR_ENV, "cannot compute SHA-256 of %s: OpenSSL refused", path);
    for (int i = 0; i < 32; i++) snprintf(out + 2 * i, 3, "%02x", md[i]);
    return OK;
}

err hash_file_sha256(const char *path, char out[65]) {
    out[0] = 0;
    FILE *f = fopen(path, "rbe");
    if (!f) return ERR(ERR_IO, "cannot open %s: %s", path, strerror(errno));
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    err e = ctx ? digest_stream(f, path, ctx, out) : ERR(ERR_NOMEM, "out of memory for SHA-256 of %s", path);
    EVP_MD_CTX_free(ctx);
    fclose(f);
    return e;
}
