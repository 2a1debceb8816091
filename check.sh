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
  step lints cargo clippy --all-targets -- -D warnings
  step tests cargo test --no-fail-fast
  # They wait more than they work. One takes three minutes by itself: Exchange's own thirty messages a minute.
  step slow cargo test --no-fail-fast --test guard --test devices -- --ignored --skip thirty_messages --test-threads 6
  step measures cargo test --no-fail-fast --test spool --test siege -- --ignored --test-threads 1
  step build cargo build
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
