/* Natural text: plain and gzip files, search under the data folder, damaged files, installed documents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <zlib.h>
#include "base/io.h"
#include "base/mem.h"
#include "base/rng.h"
#include "task/task.h"
#include "tests/support/temp.h"

static text_source *open_ok(const char *path, const char *data_dir) {
    text_source *t = NULL;
    err e = text_source_open(path, data_dir, &t);
    if (e) fail_msg("%s", err_text());
    return t;
}

static void refused(err expected, const char *path, const char *data_dir, const char *words) {
    text_source *t = NULL;
    assert_int_equal(text_source_open(path, data_dir, &t), expected);
    assert_null(t);
    if (!strstr(err_text(), words)) fail_msg("\"%s\" does not say \"%s\"", err_text(), words);
}

static const char *write_gzip(const char *name, const char *text, size_t n) {
    const char *path = temp_path(name);
    gzFile f = gzopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, text, (unsigned)n), (int)n);
    assert_int_equal(gzclose(f), Z_OK);
    return path;
}

/* Bytes that compress badly, so that the file has a middle to damage. */
static char *random_text(size_t n) {
    char *p = NULL;
    assert_int_equal(mem_alloc(MEM_OTHER, n + 1, &p), OK);
    for (size_t i = 0; i < n; i++) p[i] = (char)(33 + rng_at(5, 0, i) % 90);
    return p;
}

static void plain_and_gzip_give_the_same_text(void **state) {
    size_t n_big = 3 << 20, n; /* more than the first guess of the reader */
    char *big = random_text(n_big);
    text_source *plain = open_ok(temp_file("big.txt", big), NULL),
                *gz = open_ok(write_gzip("big.txt.gz", big, n_big), NULL);
    assert_memory_equal(text_source_text(plain, &n), big, n_big + 1);
    assert_int_equal(n, n_big);
    assert_memory_equal(text_source_text(gz, &n), big, n_big + 1);
    assert_int_equal(n, n_big);
    assert_string_equal(text_source_name(plain), "big.txt");
    assert_string_equal(text_source_name(gz), "big.txt.gz");
    assert_string_not_equal(text_source_sha256(plain), text_source_sha256(gz)); /* of the file, not of the text */
    text_source_close(plain);
    text_source_close(gz);
    mem_free(big);
    text_source *abc = open_ok(temp_file("abc.txt", "abc"), NULL);
    assert_string_equal(text_source_sha256(abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    text_source_close(abc);
}

static void names_are_searched_under_the_data_folder(void **state) {
    assert_int_equal(io_make_dirs(temp_path("data/books")), OK);
    temp_file("data/books/one.txt", "a book");
    text_source *t = open_ok("books/one.txt", temp_path("data"));
    assert_string_equal(text_source_text(t, NULL), "a book");
    text_source_close(t);
    refused(ERR_ENV, "books/two.txt", temp_path("data"), "books/two.txt");
    refused(ERR_ENV, "books", temp_path("data"), "no such file"); /* a folder is no text */
    refused(ERR_ENV, "/nowhere/at/all.txt", NULL, "/nowhere/at/all.txt");
}

static void damaged_files_are_refused(void **state) {
    size_t n = 200000, n_file;
    char *text = random_text(n), *file = NULL;
    assert_int_equal(io_read_file(write_gzip("whole.gz", text, n), 1 << 20, &file, &n_file), OK);
    assert_int_equal(io_write_file(temp_path("short.gz"), file, n_file / 2), OK);
    refused(ERR_FORMAT, temp_path("short.gz"), NULL, "short.gz");
    assert_int_equal(io_write_file(temp_path("no_tail.gz"), file, n_file - 4), OK);
    refused(ERR_FORMAT, temp_path("no_tail.gz"), NULL, "no_tail.gz");
    file[n_file - 6] ^= 1; /* the checksum */
    assert_int_equal(io_write_file(temp_path("sum.gz"), file, n_file), OK);
    refused(ERR_FORMAT, temp_path("sum.gz"), NULL, "sum.gz");
    refused(ERR_FORMAT, temp_file("empty.txt", ""), NULL, "empty");
    mem_free(file);
    mem_free(text);
}

static void missing_memory_is_an_error(void **state) {
    const char *path = temp_file("small.txt", "some text");
    int failed = 0;
    for (int i = 1; i < 5; i++) {
        text_source *t = NULL;
        mem_fail_nth(i);
        err e = text_source_open(path, NULL, &t);
        mem_fail_nth(0);
        assert_true(e == OK || (e == ERR_NOMEM && !t));
        failed += e != OK;
        text_source_close(t);
    }
    assert_true(failed >= 2);
}

static void an_installed_document_or_the_package_that_has_one(void **state) {
    text_source *t = NULL;
    err e = text_source_open(NULL, NULL, &t);
    if (e) {
        assert_int_equal(e, ERR_ENV);
        assert_non_null(strstr(err_text(), "debian-reference-en"));
        return;
    }
    size_t n;
    assert_non_null(strstr(text_source_text(t, &n), "Debian"));
    assert_true(n > 50000);
    assert_int_equal(strlen(text_source_sha256(t)), 64);
    text_source_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_and_gzip_give_the_same_text),
        cmocka_unit_test(names_are_searched_under_the_data_folder),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(missing_memory_is_an_error),
        cmocka_unit_test(an_installed_document_or_the_package_that_has_one),
    };
    return cmocka_run_group_tests_name("text_source", tests, NULL, NULL);
}
