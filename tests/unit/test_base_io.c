/* Files appear whole or not at all, and failures name the path and the reason. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/mem.h"
#include "tests/support/temp.h"

static int entries_of(const char *dir) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void assert_holds(const char *path, const char *want) {
    char *text;
    size_t n;
    assert_int_equal(io_read_file(path, 1 << 20, &text, &n), OK);
    assert_int_equal(n, strlen(want));
    assert_string_equal(text, want);
    mem_free(text);
}

static void a_file_appears_only_when_committed(void **state) {
    const char *dir = temp_path("atomic");
    assert_int_equal(io_make_dirs(dir), OK);
    const char *path = temp_path("atomic/a.txt");
    assert_int_equal(io_write_file(path, "old", 3), OK);
    io_file f;
    assert_int_equal(io_begin(path, &f), OK);
    fprintf(f.f, "new text");
    fflush(f.f);
    assert_holds(path, "old");
    assert_int_equal(entries_of(dir), 2);
    assert_int_equal(io_commit(&f), OK);
    assert_holds(path, "new text");
    assert_int_equal(entries_of(dir), 1);
    io_abort(&f);
    assert_holds(path, "new text");
}

static void abort_leaves_the_old_file(void **state) {
    const char *dir = temp_path("aborted");
    assert_int_equal(io_make_dirs(dir), OK);
    const char *path = temp_path("aborted/a.txt");
    assert_int_equal(io_write_file(path, "old", 3), OK);
    io_file f;
    assert_int_equal(io_begin(path, &f), OK);
    fprintf(f.f, "half");
    io_abort(&f);
    assert_holds(path, "old");
    assert_int_equal(entries_of(dir), 1);
}

/* A file-size limit stands for a full disk: the same write fails. */
static void a_write_that_fails_leaves_nothing_behind(void **state) {
    const char *dir = temp_path("full");
    assert_int_equal(io_make_dirs(dir), OK);
    static char big[100000];
    struct rlimit old, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight = old;
    tight.rlim_cur = 5000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    err e = io_write_file(temp_path("full/a.bin"), big, sizeof big);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(e, ERR_IO);
    assert_non_null(strstr(err_text(), "cannot write "));
    assert_non_null(strstr(err_text(), "full/a.bin: File too large"));
    assert_int_equal(entries_of(dir), 0);
}

static void a_full_device_is_reported(void **state) {
    assert_int_equal(io_write_file("/dev/full", "x", 1), ERR_IO);
    assert_string_equal(err_text(), "cannot write /dev/full: No space left on device");
}

static void devices_are_written_in_place(void **state) {
    assert_int_equal(io_write_file("/dev/null", "x", 1), OK);
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

static void unwritable_places_are_named(void **state) {
    assert_int_equal(io_write_file(temp_path("no/such/dir.txt"), "x", 1), ERR_IO);
    assert_non_null(strstr(err_text(), "no/such/dir.txt: No such file or directory"));
    assert_int_equal(io_write_file(temp_dir(), "x", 1), ERR_IO);
    assert_non_null(strstr(err_text(), "it is a directory"));
    assert_int_equal(io_write_file("/proc/kvlab.txt", "x", 1), ERR_IO);
    assert_non_null(strstr(err_text(), "/proc/kvlab.txt: "));
}

static void reading_is_bounded(void **state) {
    char *text;
    size_t n;
    const char *path = temp_file("ten", "0123456789");
    assert_int_equal(io_read_file(path, 10, &text, &n), OK);
    assert_int_equal(text[10], 0);
    mem_free(text);
    assert_int_equal(io_read_file(path, 9, &text, &n), ERR_FORMAT);
    assert_null(text);
    assert_int_equal(io_read_file("/dev/zero", 100000, &text, &n), ERR_FORMAT);
    assert_int_equal(io_read_file("/proc/self/status", 100000, &text, &n), OK); /* says it has no bytes, and has some */
    assert_true(n > 100);
    mem_free(text);
    assert_int_equal(io_read_file(temp_dir(), 100, &text, &n), ERR_IO);
    assert_non_null(strstr(err_text(), "Is a directory"));
    assert_int_equal(io_read_file(temp_path("absent"), 100, &text, &n), ERR_IO);
    assert_non_null(strstr(err_text(), "absent: No such file"));
}

static void reading_survives_missing_memory(void **state) {
    char *text;
    size_t n, before = mem_live_bytes(MEM_OTHER);
    for (int k = 1; k < 4; k++) {
        mem_fail_nth(k);
        assert_int_equal(io_read_file("/dev/zero", 100000, &text, &n), ERR_NOMEM);
        mem_fail_nth(0);
        assert_int_equal(mem_live_bytes(MEM_OTHER), before);
    }
}

static void directories_are_made_with_their_parents(void **state) {
    const char *path = temp_path("a/b//c/");
    assert_int_equal(io_make_dirs(path), OK);
    assert_int_equal(io_make_dirs(path), OK);
    assert_true(io_exists(temp_path("a/b/c")));
    (void)temp_file("plain", "");
    assert_int_equal(io_make_dirs(temp_path("plain/x")), ERR_IO);
    assert_non_null(strstr(err_text(), "plain exists and is not a directory"));
    assert_int_equal(io_make_dirs("/proc/kvlab/x"), ERR_IO);
}

static void paths_are_joined(void **state) {
    const char *cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a", "/b", "/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *s = io_join(cases[i][0], cases[i][1]);
        assert_string_equal(s, cases[i][2]);
        mem_free(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_appears_only_when_committed),
        cmocka_unit_test(abort_leaves_the_old_file),
        cmocka_unit_test(a_write_that_fails_leaves_nothing_behind),
        cmocka_unit_test(a_full_device_is_reported),
        cmocka_unit_test(devices_are_written_in_place),
        cmocka_unit_test(unwritable_places_are_named),
        cmocka_unit_test(reading_is_bounded),
        cmocka_unit_test(reading_survives_missing_memory),
        cmocka_unit_test(directories_are_made_with_their_parents),
        cmocka_unit_test(paths_are_joined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
