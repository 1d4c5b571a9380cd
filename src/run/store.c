/* Writes sweep.h5 (layout: store.h). The file is built in memory and then written like every other file, whole or not
 * at all, so a full disk is reported by the same code and HDF5 never holds a half-written file. */
#include <stdlib.h>
#include <string.h>

#include <hdf5.h>
#include <hdf5_hl.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/outputs.h"
#include "run/store.h"

enum { CHUNK_BYTES = 1 << 18, IMAGE_STEP = 1 << 20 };

/* ---- HDF5's error stack ---- */

store_quiet store_silence(void) {
    H5E_auto2_t func = NULL;
    store_quiet q = {0};
    H5Eget_auto2(H5E_DEFAULT, &func, &q.data);
    memcpy(&q.func, &func, sizeof func);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return q;
}

void store_restore(store_quiet q) {
    H5E_auto2_t func;
    memcpy(&func, &q.func, sizeof func);
    H5Eset_auto2(H5E_DEFAULT, func, q.data);
}

static herr_t first_message(unsigned n, const H5E_error2_t *error, void *arg) {
    char **text = arg;
    if (!*text && error->desc) *text = mem_sprintf("%.*s", (int)strcspn(error->desc, "\n"), error->desc);
    return 0;
}

char *store_hdf5_complaint(void) {
    char *text = NULL;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_message, &text);
    return text ? text : mem_strdup("HDF5 does not say why");
}

/* ---- the sink that writes ---- */

typedef struct writer {
    hid_t file, text_type, group_plist;
} writer;

static MUST err refuse(const char *group, const char *name) {
    char *why = store_hdf5_complaint();
    err e = ERR(ERR_IO, "HDF5 cannot make %s%s%s: %s", group, *name && group[strlen(group) - 1] != '/' ? "/" : "", name,
                why);
    mem_free(why);
    return e;
}

static err write_group(void *arg, const char *path) {
    writer *w = arg;
    if (strcmp(path, "/") == 0) return OK;
    hid_t g = H5Gcreate2(w->file, path, H5P_DEFAULT, w->group_plist, H5P_DEFAULT);
    if (g < 0) return refuse(path, "");
    H5Gclose(g);
    return OK;
}

static bool set_attribute(hid_t object, const char *name, hid_t file_type, hid_t type, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR), a = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, type, value) >= 0;
    if (a >= 0) H5Aclose(a);
    H5Sclose(space);
    return ok;
}

static bool set_text(const writer *w, hid_t object, const char *name, const char *value) {
    return !value || !*value || set_attribute(object, name, w->text_type, w->text_type, &value);
}

static err write_text(void *arg, const char *group, const char *name, const char *value) {
    writer *w = arg;
    hid_t g = H5Gopen2(w->file, group, H5P_DEFAULT);
    bool ok = g >= 0 && set_attribute(g, name, w->text_type, w->text_type, &value);
    if (g >= 0) H5Gclose(g);
    return ok ? OK : refuse(group, name);
}

static err write_number(void *arg, const char *group, const char *name, double value, bool integer) {
    writer *w = arg;
    int64_t whole = (int64_t)value;
    hid_t g = H5Gopen2(w->file, group, H5P_DEFAULT);
    bool ok = g >= 0 && (integer ? set_attribute(g, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &whole)
                                 : set_attribute(g, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value));
    if (g >= 0) H5Gclose(g);
    return ok ? OK : refuse(group, name);
}

static hid_t file_type(const writer *w, store_type t) {
    switch (t) {
    case STORE_F64:
        return H5T_IEEE_F64LE;
    case STORE_F32:
        return H5T_IEEE_F32LE;
    case STORE_I32:
        return H5T_STD_I32LE;
    case STORE_U32:
        return H5T_STD_U32LE;
    case STORE_U8:
        return H5T_STD_U8LE;
    case STORE_TEXT:
        return w->text_type;
    }
    return -1;
}

static hid_t memory_type(const writer *w, store_type t) {
    switch (t) {
    case STORE_F64:
        return H5T_NATIVE_DOUBLE;
    case STORE_F32:
        return H5T_NATIVE_FLOAT;
    case STORE_I32:
        return H5T_NATIVE_INT32;
    case STORE_U32:
        return H5T_NATIVE_UINT32;
    case STORE_U8:
        return H5T_NATIVE_UINT8;
    case STORE_TEXT:
        return w->text_type;
    }
    return -1;
}

/* Arrays beyond a few kilobytes are compressed, in chunks of whole leading indices; texts live in HDF5's heap, which is
 * not. */
static hid_t make_plist(const store_array *a, const hsize_t *shape) {
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(p, 0); /* the same results give the same bytes */
    size_t row = store_type_bytes[a->type], n = store_n_elements(a);
    if (a->type == STORE_TEXT || a->rank < 2 || n * row < 4096 || H5Zfilter_avail(H5Z_FILTER_DEFLATE) <= 0) return p;
    hsize_t chunk[STORE_MAX_RANK];
    for (int i = a->rank - 1; i >= 0; i--) {
        hsize_t fit = CHUNK_BYTES / row;
        chunk[i] = fit < 1 ? 1 : fit < shape[i] ? fit : shape[i];
        row *= chunk[i];
    }
    H5Pset_chunk(p, a->rank, chunk);
    H5Pset_shuffle(p);
    H5Pset_deflate(p, 4);
    return p;
}

static bool attach_scales(const writer *w, const store_array *a, hid_t set) {
    if (a->scale) return H5DSset_scale(set, a->name) >= 0;
    bool ok = true;
    for (int i = 0; i < a->rank && ok; i++) {
        char *path = mem_sprintf("%s/%s", a->group, a->dim[i]);
        hid_t scale = H5Dopen2(w->file, path, H5P_DEFAULT);
        mem_free(path);
        ok = scale >= 0 && H5DSattach_scale(set, scale, (unsigned)i) >= 0;
        if (scale >= 0) H5Dclose(scale);
    }
    return ok;
}

static err write_array(void *arg, const store_array *a) {
    writer *w = arg;
    hsize_t shape[STORE_MAX_RANK];
    for (int i = 0; i < a->rank; i++) shape[i] = a->shape[i];
    char *path = mem_sprintf("%s/%s", a->group, a->name);
    hid_t space = H5Screate_simple(a->rank, shape, NULL), plist = make_plist(a, shape);
    hid_t set = H5Dcreate2(w->file, path, file_type(w, a->type), space, H5P_DEFAULT, plist, H5P_DEFAULT);
    int one = 1;
    bool ok = set >= 0 && (!store_n_elements(a) ||
                           H5Dwrite(set, memory_type(w, a->type), H5S_ALL, H5S_ALL, H5P_DEFAULT, a->data) >= 0);
    ok = ok && attach_scales(w, a, set) && set_text(w, set, "units", a->unit) && set_text(w, set, "help", a->help) &&
         set_text(w, set, "direction", a->direction);
    ok = ok && (!a->timing || set_attribute(set, "timing", H5T_STD_I32LE, H5T_NATIVE_INT, &one));
    if (set >= 0) H5Dclose(set);
    H5Sclose(space);
    H5Pclose(plist);
    mem_free(path);
    return ok ? OK : refuse(a->group, a->name);
}

/* ---- the file ---- */

static MUST err write_image(hid_t file, const char *path) {
    char *image;
    if (H5Fflush(file, H5F_SCOPE_LOCAL) < 0) return refuse(path, "");
    ssize_t n = H5Fget_file_image(file, NULL, 0);
    if (n <= 0) return refuse(path, "");
    TRY(mem_alloc(MEM_OTHER, (size_t)n, &image));
    err e = H5Fget_file_image(file, image, (size_t)n) == n ? OK : refuse(path, "");
    if (e == OK) e = io_write_file(path, image, (size_t)n);
    mem_free(image);
    return e;
}

static MUST err build(const results *r, const char *path) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    writer w = {.text_type = H5Tcopy(H5T_C_S1), .group_plist = H5Pcreate(H5P_GROUP_CREATE)};
    H5Tset_size(w.text_type, H5T_VARIABLE);
    H5Tset_cset(w.text_type, H5T_CSET_UTF8);
    H5Pset_obj_track_times(w.group_plist, 0);
    H5Pset_fapl_core(access, IMAGE_STEP, 0);
    w.file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    err e = w.file < 0 ? refuse(path, "") : OK;
    store_sink sink = {&w, write_group, write_array, write_text, write_number};
    if (e == OK) e = store_walk(r, &sink);
    if (e == OK) e = write_image(w.file, path);
    if (w.file >= 0) H5Fclose(w.file);
    H5Tclose(w.text_type);
    H5Pclose(w.group_plist);
    H5Pclose(access);
    H5Pclose(create);
    return e;
}

err outputs_store(const results *r, const char *dir) {
    store_quiet q = store_silence();
    char *path = io_join(dir, "sweep.h5");
    err e = build(r, path);
    mem_free(path);
    store_restore(q);
    return e;
}
