/* made_sweep DIR [crowded]: a results directory with made-up numbers, as input for scripts that test exports and pictures.
 */
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "tests/support/made_results.h"

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "crowded") != 0)) {
        fprintf(stderr, "usage: made_sweep DIR [crowded]\n");
        return 2;
    }
    results *r = NULL;
    err e = io_make_dirs(argv[1]);
    if (e == OK) e = made_results(1, argc == 3, argv[1], &r);
    if (e == OK) e = made_results_write(r, argv[1]);
    if (e != OK) fprintf(stderr, "made_sweep: %s\n", err_text());
    results_free(r);
    return err_exit_status(e);
}
