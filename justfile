# Short names for long commands. `./test` needs none of them.

# Lists what there is.
default:
    @just --list

# Formats the code.
fmt:
    cargo fmt --all

# Lints, warnings refused.
lint:
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# Everything that continuous integration checks.
test:
    ./test

# The tests whose name contains this text.
only name:
    cargo nextest run --workspace --all-features -E 'test({{name}})'

# The Python package: builds its extension in place and runs its tests, such as `just python -k saga`.
python *flags:
    crates/lockbay-python/develop
    PYTHONPATH=crates/lockbay-python/python target/python/bin/python -m pytest crates/lockbay-python/tests {{flags}}

# A wheel of the Python package, under target/wheels.
wheel:
    target/python/bin/maturin build --release --locked -m crates/lockbay-python/Cargo.toml

# The documentation of the crates; a broken link is an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

# Which dependencies are allowed, under which licences, and from where.
deny:
    cargo deny check bans licenses sources

# A server on an embedded store.
serve *flags:
    cargo run --release -- serve {{flags}}

# A benchmark, such as `just bench job --concurrency 64`.
bench *what:
    cargo run --profile bench -- bench {{what}}
