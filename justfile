# The front door. `just` lists what there is.
default:
    @just --list

# Format the code.
fmt:
    cargo fmt --all

# Lints as CI runs them.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Every test on both engines; `just test --quick` leaves out what takes minutes.
test *args:
    tests/run {{args}}

# The product in one process: a controller and simulated PCs.
demo *args:
    cargo run --release --bin fleetmend-sim -- demo {{args}}

# Proves that the fault tests can fail: promises are broken on purpose, and each one's test must turn red.
sabotage:
    tests/sabotage

# The Windows agent, built on Linux: target/x86_64-pc-windows-gnu/release/fleetmend-agent.exe.
windows *args:
    deploy/windows/build {{args}}

# Proves the Windows agent by running it under Wine against a real controller.
test-windows *args:
    tests/windows/run {{args}}

# What CI runs.
ci:
    .ci/run

# Product beside the limits of its parts, in one run; `just bench --output json` for an object.
bench *args:
    cargo build --release --workspace --bins
    target/release/fleetmend-bench run {{args}}
