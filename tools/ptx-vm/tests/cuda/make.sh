#!/bin/sh
# Makes the PTX next to the sources with nvcc 13.0.88 (on the PATH): ./make.sh
set -e
cd "$(dirname "$0")"
flags="-ptx -O3 -std=c++17 -arch=compute_80"
make_one() {
    out=ptx/$1${2:+-$2}.ptx
    define=${2:+-DFAULT_$(echo "$2" | tr a-z A-Z)}
    nvcc $flags $define "$1.cu" -o "$out.tmp"
    {
        echo "// Made from $1.cu by: nvcc 13.0.88 $flags $define"
        sed -e '1,/^\.version/{/^\/\//d;/^$/d}' -e 's/^\.version 9\.0/.version 8.0/' "$out.tmp"
    } > "$out"
    rm "$out.tmp"
}
mkdir -p ptx
for f in "" wait barrier war; do make_one gemm $f; done
for f in "" mask barrier slot war row divergent exited; do make_one layer_norm $f; done
for f in "" vector writes syncwarp shuffle blocks; do make_one small $f; done
