/* Checksums and identities: XXH3 (libxxhash) for journals and ids, SHA-256 for files that users can check. */
#ifndef KVLAB_BASE_HASH_H
#define KVLAB_BASE_HASH_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

uint64_t hash_bytes(const void *p, size_t n, uint64_t seed);
void hash_hex64(uint64_t h, char out[17]);
/* Lower-case hex of a whole file. */
MUST err hash_file_sha256(const char *path, char out[65]);
#endif
