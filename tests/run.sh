#!/usr/bin/env bash
# Run every test program of a build, as many at once as there are cores, then lossd against its HTTP cases and
# README.md.
# Usage: FLAVOUR=release tests/run.sh build/release/tests [exhaustive]
# EMULATOR is what runs the programs if this processor does not.
set -uo pipefail
programs=$1
mode=${2:-}
build=$(dirname "$programs")
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cores=$(nproc)
# shellcheck disable=SC2206 # words
emulator=(${EMULATOR:-})
patience=${EMULATOR:+3}600
[ -z "$mode" ] || patience=3600
lossd=$build/lossd
if [ -n "${EMULATOR:-}" ]; then
    lossd=$work/lossd
    printf '#!/bin/sh\nexec %s %s "$@"\n' "$EMULATOR" "$PWD/$build/lossd" > "$lossd"
    chmod +x "$lossd"
fi

# run NAME COMMAND...: one line if it passes, its whole output if it fails.
run() {
    local name=$1 start=$SECONDS log late=
    shift
    log=$(mktemp -p "$work")
    if timeout "$patience" "$@" > "$log" 2>&1; then
        echo ok >> "$work/passed"
        printf '  ok      %-28s %3ss\n' "$name" $((SECONDS - start))
    else
        [ $? != 124 ] || late=": it had not ended after ${patience}s"
        echo FAILED >> "$work/failed"
        printf '%s\n  FAILED  %s%s\n' "$(cat "$log")" "$name" "$late"
    fi
}

# The same beside others: of programs that use nothing but their own memory.
run_beside() {
    while [ "$(jobs -r -p | wc -l)" -ge "$cores" ]; do
        wait -n
    done
    run "$@" &
}

# Whether this processor supports the instruction set that test_vmath_<isa>_<element> was compiled for.
has_isa() {
    local flag flags=
    case $1 in
    avx2) flags="avx2 fma f16c" ;;
    avx512) flags="avx512f avx512bw avx512dq avx512vl fma f16c" ;;
    esac
    for flag in $flags; do
        grep -qw "$flag" /proc/cpuinfo || return 1
    done
}

# Whether the source of a program is still there: builds leave programs behind.
has_source() {
    local source=${1/#test_vmath_*/test_vmath}
    [ -f "tests/unit/$source.c" ] || [ -f "tests/$source.c" ] || [ "$1" = check_losses ]
}

for program in "$programs"/test_* "$programs"/check_losses "$programs"/torture "$programs"/torture_http; do
    name=$(basename "$program")
    if [ ! -x "$program" ] || [ -d "$program" ] || ! has_source "$name"; then
        continue
    fi
    case $name in
    test_requests)
        # The HTTP cases, the examples and the wires ask the same of lossd.
        if [ -n "${EMULATOR:-}" ]; then
            printf '  left out  %s: it takes hours with %s\n' "$name" "$EMULATOR"
        elif [ -z "$mode" ]; then
            run_beside "$name" "$program"
        fi
        ;;
    test_vmath_*)
        isa=${name#test_vmath_}
        if ! has_isa "${isa%_*}"; then
            printf '  left out  %s: this processor has no %s\n' "$name" "${isa%_*}"
            continue
        fi
        # Each function takes minutes for every float.
        functions=('')
        if [ -n "$mode" ] && [ "${isa#*_}" = F32 ]; then
            functions=(exp log log1p tanh expm1)
        fi
        for function in "${functions[@]}"; do
            run_beside "$name${function:+ $function}" "${emulator[@]}" "$program" ${mode:+"$mode"} \
                ${function:+"$function"}
        done
        ;;
    test_double | test_number_*) run_beside "$name" "${emulator[@]}" "$program" ${mode:+"$mode"} ;;
    *) [ -n "$mode" ] || run_beside "$name" "${emulator[@]}" "$program" ;;
    esac
done
[ -n "$mode" ] || run_beside "bits" "${emulator[@]}" "$programs/bits" tests/bits.txt
wait
if [ -z "$mode" ]; then
    for target in tests/fuzz/seeds/*; do
        run "seeds of $(basename "$target")" "${emulator[@]}" "$programs/fuzz_$(basename "$target")" "$target"/*
    done
    run "HTTP cases" python3 tests/http/run.py --lossd "$lossd"
    run "eval" python3 tests/eval.py --lossd "$lossd"
    run "examples" python3 tests/http/examples.py --lossd "$lossd"
    run "recipes" python3 tests/http/recipes.py --lossd "$lossd"
    run "wires" python3 tests/http/wires.py --lossd "$lossd"
    if command -v node > /dev/null; then
        run "formulas" node tests/browser/formulas.mjs --lossd "$lossd"
    else
        printf '  left out  formulas: there is no node\n'
    fi
    run "oip client" python3 tests/http/oip_client.py --lossd "$lossd"
    run "drain" python3 tests/http/drain.py --lossd "$lossd"
    if [ -z "${EMULATOR:-}" ]; then # they have deadlines
        run "framing" python3 tests/http/framing.py --lossd "$lossd"
        run "lines" python3 tests/http/lines.py --lossd "$lossd"
        run "regions" python3 tests/http/regions.py --lossd "$lossd"
        run "operate" python3 tests/http/operate.py --lossd "$lossd"
    fi
    run "dashboard" docker/check_metrics.py --lossd "$lossd"
    run "smuggling" python3 tests/load/smuggle.py --direct --lossd "$lossd"
    run README.md tests/readme.sh "$build" "$lossd"
    run installed tests/install.sh "$build"
    for guide in api/guides/*.md; do
        run "$(basename "$guide")" tests/console.sh "$lossd" "$guide"
    done
    # Into a Python of this machine, which has no sanitizer.
    if [[ ${FLAVOUR:-release} =~ ^(release|debug)$ ]] && [ -z "${EMULATOR:-}" ] &&
        python3 -c 'import numpy' 2> /dev/null; then
        run losskit.local env LOSSD="$PWD/$build/lossd" PYTHONPATH=api/python python3 -m unittest tests.test_local
    fi
    # Sanitizers make calls of their own.
    if [[ ${FLAVOUR:-release} =~ ^(release|debug)$ ]] && [ -z "${EMULATOR:-}" ]; then
        if python3 tests/http/syscalls.py --can-trace; then
            run "system calls" python3 tests/http/syscalls.py --lossd "$lossd"
        else
            printf '  left out  system calls: strace is missing, or may not trace here\n'
        fi
    fi
    run demo tests/data/demo.sh "$lossd"
fi
touch "$work/passed" "$work/failed"
printf '%d passed, %d failed\n' "$(wc -l < "$work/passed")" "$(wc -l < "$work/failed")"
[ ! -s "$work/failed" ]
