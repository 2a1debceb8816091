#!/usr/bin/env bash
# Builds the targets and runs each for some seconds, from the committed seeds.
#
#   fuzz/run.sh [SECONDS [TARGET...]]     30 seconds each, all targets
#   fuzz/run.sh build                     only builds; the targets are then in target/debug
#   fuzz/run.sh dictionary TARGET         the name of its dictionary
#
# FUZZ_SEED=N tries the same inputs each time, as far as the seconds go: then a target that fails, fails by what was
# changed. Without it each run tries others.
#
# FUZZ_OPT_LEVEL=1 builds what tries twice as many inputs in a second, and takes three times as long to build: for hours
# of it. Level 3 is no faster than that, since most of the time goes to what the fuzzer counts.
#
# Each target counts as one test: the last line is `N passed, N failed`. What makes one fail is printed in base64;
# `base64 -d >input`, then `target/debug/TARGET input`, shows it again.
#
# `cargo fuzz run TARGET fuzz/seeds/TARGET` does the same by cargo-fuzz. It compiles all crates anew for it; here only
# gatepost itself is, with the dependencies as `cargo build` has them.
set -uo pipefail
cd "$(dirname "$0")/.."

# As many at a time as this machine has cores. They have time: they make way for whatever else is run beside them.
jobs=${FUZZ_JOBS:-$(nproc)}

main() {
  case ${1:-} in
    build) build ;;
    dictionary) dictionary "$2" ;;
    *) build && run_all "${1:-30}" "${@:2}" ;;
  esac
}

build() {
  # With the checks for overflow of a debug build. An example is built for its company: with one, the dependencies have
  # the features that they have for `cargo test --workspace`, and need not be compiled again.
  local level=${FUZZ_OPT_LEVEL:-0}
  CARGO_INCREMENTAL=0 RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/instrument.sh cargo build --workspace \
    --config "profile.dev.package.gatepost.opt-level=$level" \
    --config "profile.dev.package.gatepost-fuzz.opt-level=$level" \
    --example alone $(targets | sed 's/^/--bin /')
}

targets() {
  (cd fuzz/fuzz_targets && basename -s .rs -- *.rs)
}

run_all() {
  local seconds=$1 folder output
  shift
  [ $# -gt 0 ] || set -- $(targets)
  folder=$(target_folder)/debug
  output=$(mktemp -d)
  printf '%s\n' "$@" | xargs -P "$jobs" -I{} "$0" one "$folder" "$output" "$seconds" {}
  cat "$output"/*
  local good bad
  good=$(cat "$output"/* | grep -c '^ok ')
  bad=$(($# - good))
  rm -rf "$output"
  echo "$good passed, $bad failed"
  [ "$bad" = 0 ]
}

# One target; its line, and the input if it failed, go to a file of its own.
one() {
  local folder=$1 output=$2 seconds=$3 target=$4 work status
  work=$(mktemp -d)
  nice -n 19 "$folder/$target" "$work" "fuzz/seeds/$target" -dict="fuzz/dictionaries/$(dictionary "$target").dict" \
    -max_len=4096 -timeout=10 -rss_limit_mb=2048 -max_total_time="$seconds" -seed="${FUZZ_SEED:-0}" -print_final_stats=1 \
    -artifact_prefix="$work/failed-" >"$work/log" 2>&1
  status=$?
  {
    if [ "$status" = 0 ]; then
      echo "ok $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log") executions"
    else
      echo "failed $target, status $status"
      grep -a 'panicked at' -A 3 "$work/log" | head -n 12 | cut -c 1-300 | sed 's/^/  /'
      cat "$work"/failed-* 2>/dev/null | base64 | sed 's/^/  /'
    fi
  } >"$output/$target"
  rm -rf "$work"
}

dictionary() {
  case $1 in
    *_imap) echo imap ;;
    *_pop3) echo pop3 ;;
    *_smtp | smtp_*) echo smtp ;;
    sasl | challenge) echo sasl ;;
    config | proxy_header) echo "$1" ;;
    header | mime | graph_recipients) echo message ;;
    *) echo json ;;
  esac
}

target_folder() {
  cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

if [ "${1:-}" = one ]; then
  shift
  one "$@"
else
  main "$@"
fi
