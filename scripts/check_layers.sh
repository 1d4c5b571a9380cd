#!/bin/sh
# A file includes only from its own layer or the layers above it in this table (docs/architecture.md); kernels include base, the
# parsers and pure functions, backend, and nothing else. Prints each offence and fails.
cd "$(dirname "$0")/.." || exit 1
find src kernels -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' | sort | xargs awk '
BEGIN {
    split("base:0 conf:1 gguf:1 format:1 text:1 backend:2 model:3 cache:3 policy:4 engine:5 task:6 stats:6 run:7", t, " ")
    for (i in t) { split(t[i], kv, ":"); level[kv[1]] = kv[2] }
}
FNR == 1 {
    n_files++
    split(FILENAME, part, "/")
    kernel = part[1] == "kernels"
    own = kernel ? 2 : level[part[2]]
    if (!kernel && !(part[2] in level)) { print FILENAME ": src/" part[2] " is in no layer"; bad = 1 }
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, quoted, "\"")
    n = split(quoted[2], path, "/")
    if (path[1] == "tests" || (path[1] == "kernels" && !kernel)) {
        print FILENAME ":" FNR ": includes " quoted[2] ", which is above every layer of src"; bad = 1
    } else if (n > 1 && path[1] in level && level[path[1]] > own) {
        print FILENAME ":" FNR ": layer " own " includes " quoted[2] " of layer " level[path[1]]; bad = 1
    }
}
END {
    if (n_files == 0) { print "no files found"; bad = 1 }
    if (!bad) print "layers: " n_files " files, each includes only from its own layer or those it stands on"
    exit bad
}'
