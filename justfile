# What one does while working on Strata, on any Linux with Rust: `just` lists it. The scripts in ci/
# are for Debian 12, where they install what they need.

# Arguments reach the commands as they are, with their blanks and quotes.
set positional-arguments

_list:
    @just --list

# The release programs: strata, strata-img
build:
    cargo build --release --locked --workspace --bins

# Unit and property tests: no KVM, no root; those that need QEMU's tools fail where they are missing
test *ARGS:
    cargo test --workspace --locked "$@"

# Format, clippy, width of comments, licences: what ci/test checks before it tests anything
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    ci/comment-width
    if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
        else echo 'skipped licences and sources: there is no cargo deny (cargo install cargo-deny)'; fi

# The documentation of all crates, with private items
doc *ARGS:
    RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
        cargo doc --no-deps --workspace --locked --document-private-items "$@"

# A command in a guest with this host's kernel (docs/CI.md): needs /dev/kvm and a static busybox
guest *COMMAND:
    cargo run --release --locked --bin strata -- test -- "$@"

# The guest's kernel and initramfs in .cache/images (Debian: its kernel comes from apt)
guest-image:
    guest-images/build

# Every check, with real guests (Debian)
ci:
    ci/test

# New seeds of the crash simulations, killed processes, fuzzing (Debian; nightly Rust)
soak MINUTES="10":
    ci/soak --minutes {{ MINUTES }}

# Measurements beside QEMU's programs, in turns (Debian); `just bench --list` names the rows
bench *ARGS:
    ci/bench "$@"
