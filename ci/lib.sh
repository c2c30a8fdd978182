# Sourced by the scripts here and by guest-images/build: places and small helpers. Not run itself.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Downloads and what is built from them; kept between runs, never committed.
CACHE=$ROOT/.cache
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# The release binaries are what every whole-system test and the demo run.
RELEASE=$TARGET/release
# Programs that ci/setup has put there, cargo's subcommands among them.
PATH=$PATH:$CACHE/tools/bin

say() { printf '%s\n' "$*"; }
section() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# as_root COMMAND...: runs it as root, by sudo where we are not.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root: run ci/setup as root, or install sudo"
    fi
}

# quietly LOG COMMAND...: output goes to LOG, and to the terminal only if the command fails.
quietly() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "'$*' failed; the whole output is in $log"
    fi
}

# copy_program FILE TREE [TARGET]: copies a program into TREE/bin, and the shared libraries that it
# needs to where it looks for them.
copy_program() {
    local file=$1 tree=$2 library
    mkdir -p "$tree/bin"
    cp -L "$file" "$tree/bin/"
    # A static program makes ldd fail, and has nothing to copy.
    { ldd "$file" 2>/dev/null || true; } | sed -n 's,[^/]*\(/[^ )]*\).*,\1,p' | while read -r library; do
        [ -e "$tree$library" ] || install -D "$library" "$tree$library"
    done
}

# make_cpio TREE FILE: packs a directory as a compressed initramfs.
make_cpio() {
    (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio --null --create --format=newc --owner=0:0 --quiet) | gzip -1 >"$2.new"
    mv "$2.new" "$2"
}

# What builds the release programs that whole-system tests and the demo run.
BUILD_PROGRAMS=(cargo build --release --locked --manifest-path "$ROOT/Cargo.toml" --workspace --bins
    --exclude strata-bench)

# build_all: all that whole-system tests and the demo run. What is built already costs seconds.
build_all() {
    "$ROOT/ci/setup"
    say "build: the release programs (the first time takes minutes)"
    quietly "$CACHE/logs/build.log" "${BUILD_PROGRAMS[@]}"
    "$ROOT/guest-images/build"
}
