#!/usr/bin/env bash
# Fuzz each target for some seconds, starting from its seeds. Inputs that fail are written beside the seeds, under
# the name that libFuzzer gives them: fix the bug, then commit the input as a seed.
# Usage: tests/fuzz/run.sh build/fuzz/tests SECONDS TARGET...
set -uo pipefail
programs=$1
seconds=$2
shift 2
failed=0
dictionary=$programs/names.dict
build/release/lossd describe --json | grep -oE '"[a-zA-Z_.0-9]+"' | sort -u > "$dictionary"
for target in "$@"; do
    corpus=$programs/corpus/$target
    seeds=tests/fuzz/seeds/$target
    log=$programs/$target.log
    mkdir -p "$corpus"
    if ! "$programs/libfuzzer_$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=4096 \
        -dict="$dictionary" -artifact_prefix="$seeds/" -print_final_stats=1 "$corpus" "$seeds" > "$log" 2>&1; then
        failed=1
        tail -40 "$log"
    fi
    printf '%-12s %s executions, coverage %s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(grep -oE 'cov: [0-9]+' "$log" | tail -1)"
done
exit $failed
