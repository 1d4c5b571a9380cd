/* The default model for tests that need a real one: looked for where `make model` puts it; absent -> the test skips and says so. */
#ifndef KVLAB_TESTS_SUPPORT_REAL_MODEL_H
#define KVLAB_TESTS_SUPPORT_REAL_MODEL_H
/* Path of SmolLM2-135M-Instruct Q4_1, or NULL after printing why the caller should skip(). */
const char *real_model_path(void);
/* The same for another file that `make models` fetches. */
const char *real_model_file(const char *name);
#endif
