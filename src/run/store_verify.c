/* Reads sweep.h5 back and compares every array and attribute with the journal's results. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <hdf5.h>

#include "base/io.h"
#include "base/mem.h"
#include "run/outputs.h"
#include "run/store.h"

typedef struct reader {
    const char *path;
    const results *r;
    hid_t file;
} reader;

static MUST err unreadable(const reader *v, const char *what) {
    char *why = store_hdf5_complaint();
    err e = ERR(ERR_VERIFY, "%s has no readable %s (%s); `kvlab export` writes it anew", v->path, what, why);
    mem_free(why);
    return e;
}

static err check_group(void *arg, const char *path) {
    reader *v = arg;
    hid_t g = H5Gopen2(v->file, path, H5P_DEFAULT);
    if (g < 0) return unreadable(v, path);
    H5Gclose(g);
    return OK;
}

/* Texts come as HDF5 stored them; only variable-length strings are ours. */
static bool is_text(hid_t object_type) {
    return H5Tget_class(object_type) == H5T_STRING && H5Tis_variable_str(object_type) > 0;
}

static err check_text(void *arg, const char *group, const char *name, const char *value) {
    reader *v = arg;
    if (strcmp(name, "kvlab_version") == 0) return OK; /* of the program that wrote it */
    char *what = mem_sprintf("attribute %s of %s", name, group), *found = NULL;
    hid_t a = H5Aopen_by_name(v->file, group, name, H5P_DEFAULT, H5P_DEFAULT), type = a >= 0 ? H5Aget_type(a) : -1,
          space = a >= 0 ? H5Aget_space(a) : -1;
    bool ok = type >= 0 && is_text(type) && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, type, &found) >= 0;
    err e = !ok                                   ? unreadable(v, what)
            : !found || strcmp(found, value) != 0 ? ERR(ERR_VERIFY, "%s: %s differs from the journal's", v->path, what)
                                                  : OK;
    if (found) H5free_memory(found);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    mem_free(what);
    return e;
}

static err check_number(void *arg, const char *group, const char *name, double value, bool integer) {
    reader *v = arg;
    char *what = mem_sprintf("attribute %s of %s", name, group);
    double found = NAN;
    hid_t a = H5Aopen_by_name(v->file, group, name, H5P_DEFAULT, H5P_DEFAULT), space = a >= 0 ? H5Aget_space(a) : -1;
    bool ok = space >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, H5T_NATIVE_DOUBLE, &found) >= 0;
    err e = !ok              ? unreadable(v, what)
            : found != value ? ERR(ERR_VERIFY, "%s: %s is %g, the journal says %g", v->path, what, found, value)
                             : OK;
    if (space >= 0) H5Sclose(space);
    if (a >= 0) H5Aclose(a);
    mem_free(what);
    return e;
}

static double number_at(store_type t, const void *data, size_t i) {
    switch (t) {
    case STORE_F64:
        return ((const double *)data)[i];
    case STORE_F32:
        return (double)((const float *)data)[i];
    case STORE_I32:
        return ((const int32_t *)data)[i];
    case STORE_U32:
        return ((const uint32_t *)data)[i];
    case STORE_U8:
        return ((const uint8_t *)data)[i];
    case STORE_TEXT:
        break;
    }
    return NAN;
}

/* "[snapkv budget=0.25, 3, 17]" */
static char *place(const reader *v, const store_array *a, size_t i) {
    size_t index[STORE_MAX_RANK];
    for (int k = a->rank - 1; k >= 0; k--) {
        index[k] = i % a->shape[k];
        i /= a->shape[k];
    }
    char *text = mem_strdup("[");
    for (int k = 0; k < a->rank; k++) {
        bool point = strcmp(a->dim[k], "point") == 0;
        char *longer = point ? mem_sprintf("%s%s%s", text, k ? ", " : "", v->r->points[index[k]].label)
                             : mem_sprintf("%s%s%zu", text, k ? ", " : "", index[k]);
        mem_free(text);
        text = longer;
    }
    char *whole = mem_sprintf("%s]", text);
    mem_free(text);
    return whole;
}

static MUST err differs(const reader *v, const store_array *a, size_t i, const void *found) {
    char *at = place(v, a, i);
    err e;
    if (a->type == STORE_TEXT)
        e = ERR(ERR_VERIFY, "%s: %s/%s%s is \"%.60s\", the journal says \"%.60s\"", v->path, a->group, a->name, at,
                ((char *const *)found)[i], ((char *const *)a->data)[i]);
    else
        e = ERR(ERR_VERIFY, "%s: %s/%s%s is %.9g, the journal says %.9g", v->path, a->group, a->name, at,
                number_at(a->type, found, i), number_at(a->type, a->data, i));
    mem_free(at);
    return e;
}

static MUST err compare(const reader *v, const store_array *a, const void *found) {
    for (size_t i = 0; i < store_n_elements(a); i++) {
        bool same;
        if (a->type == STORE_TEXT) {
            const char *x = ((char *const *)found)[i];
            same = x && strcmp(x, ((char *const *)a->data)[i]) == 0;
        } else {
            double x = number_at(a->type, found, i), y = number_at(a->type, a->data, i);
            same = x == y || (isnan(x) && isnan(y));
        }
        if (!same) return differs(v, a, i, found);
    }
    return OK;
}

static bool same_shape(const store_array *a, hid_t space) {
    hsize_t shape[H5S_MAX_RANK];
    if (H5Sget_simple_extent_ndims(space) != a->rank || H5Sget_simple_extent_dims(space, shape, NULL) < 0) return false;
    for (int i = 0; i < a->rank; i++)
        if (shape[i] != a->shape[i]) return false;
    return true;
}

static bool same_type(const store_array *a, hid_t type) {
    if (a->type == STORE_TEXT) return is_text(type);
    bool is_float = a->type == STORE_F64 || a->type == STORE_F32;
    return H5Tget_class(type) == (is_float ? H5T_FLOAT : H5T_INTEGER) && H5Tget_size(type) == store_type_bytes[a->type];
}

static err check_array(void *arg, const store_array *a) {
    reader *v = arg;
    char *path = mem_sprintf("%s/%s", a->group, a->name);
    hid_t set = H5Dopen2(v->file, path, H5P_DEFAULT), space = set >= 0 ? H5Dget_space(set) : -1,
          type = set >= 0 ? H5Dget_type(set) : -1;
    void *found = NULL;
    bool was_read = false;
    err e;
    if (set < 0 || space < 0 || type < 0)
        e = unreadable(v, path);
    else if (!same_shape(a, space) || !same_type(a, type))
        e = ERR(ERR_VERIFY, "%s: %s has another shape or type than the journal's results", v->path, path);
    else if ((e = mem_alloc(MEM_OTHER, store_n_elements(a) * store_type_bytes[a->type], &found)) == OK &&
             store_n_elements(a)) {
        hid_t native = H5Tget_native_type(type, H5T_DIR_ASCEND);
        was_read = H5Dread(set, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, found) >= 0;
        e = was_read ? compare(v, a, found) : unreadable(v, path);
        if (was_read && a->type == STORE_TEXT) H5Dvlen_reclaim(native, space, H5P_DEFAULT, found);
        if (native >= 0) H5Tclose(native);
    }
    mem_free(found);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (set >= 0) H5Dclose(set);
    mem_free(path);
    return e;
}

err outputs_verify(const results *r, const char *dir) {
    char *path = io_join(dir, "sweep.h5");
    store_quiet q = store_silence();
    reader v = {path, r, -1};
    err e = OK;
    if (!io_exists(path))
        e = ERR(ERR_VERIFY, "%s is missing; `kvlab export %s` writes it", path, dir);
    else if ((v.file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT)) < 0) {
        char *why = store_hdf5_complaint();
        e = ERR(ERR_VERIFY, "%s is no readable HDF5 file: %s", path, why);
        mem_free(why);
    }
    store_sink sink = {&v, check_group, check_array, check_text, check_number};
    if (e == OK) e = store_walk(r, &sink);
    if (v.file >= 0) H5Fclose(v.file);
    store_restore(q);
    mem_free(path);
    return e;
}
