# losskit and lossd. `make help` lists the targets.
#
# Everything is built under build/<flavour>/; FLAVOUR is release, debug, asan (with undefined) or tsan.
# CFLAGS and LDFLAGS are the user's: they come last and are never assigned here. All cores work, unless
# -j says how many. V=1 shows commands, V=0 nothing.

FLAVOUR ?= release
B := build/$(FLAVOUR)
Q := $(if $(filter 1,$(V)),,@)
PKG_CONFIG ?= pkg-config
# What runs programs of another processor, in words before theirs.
EMULATOR ?=

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
# While this file is read, make 4.3 has the -j of an environment's MAKEFLAGS in nothing but that. One on the
# command line wins by itself, and a make below another shares the jobs of that one.
ifeq ($(MAKELEVEL)$(filter -j% --jobs%,$(MAKEFLAGS) $(shell echo "$$MAKEFLAGS")),0)
MAKEFLAGS += -j$(shell nproc)
endif

# say what, of which: a line that begins with the place in STEPS, all that the goals may make, in that order.
say = $(if $(V),,@printf '%-9s %-3s %s\n' '$(if $(STEP_$@),[$(STEP_$@)/$(words $(STEPS))])' $(1) $(2))

VERSION := $(shell sed -n 's/^\#define LK_VERSION "\(.*\)"/\1/p' include/losskit.h)

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
DOCDIR ?= $(PREFIX)/share/doc/losskit
MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions

.PHONY: all run demo test check pages bench asan tsan lint format format-check api api-check \
	test-exhaustive same-bits $(SAME) bits clients lint-api load fuzz fuzzers seeds valgrind coverage install uninstall \
	ready deps deps-test deps-lint packages packages-deb packages-wheel packages-npm arm64 arm64-library bench-arm64 ci clean help compile_commands.json

## all: the library and lossd
all: $(B)/liblosskit.a $(B)/liblosskit.so.0 $(B)/lossd $(if $(EMULATOR),,build/lossd)

# Flags.

FLAVOUR_release := -O2 -g -D_FORTIFY_SOURCE=2
FLAVOUR_debug := -Og -g
FLAVOUR_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
FLAVOUR_tsan := -O1 -g -fsanitize=thread
FLAVOUR_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
ifeq ($(FLAVOUR_$(FLAVOUR)),)
$(error FLAVOUR is "$(FLAVOUR)"; it must be release, debug, asan, tsan or fuzz)
endif

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wwrite-strings -Wvla -Wundef -Wunused-result -Werror
HARDEN := -fstack-protector-strong -fPIE
# Every operation rounds by itself, on processors that could fuse two as well.
BASE := -std=c11 -D_POSIX_C_SOURCE=200809L -ffp-contract=off -Iinclude $(WARN) $(FLAVOUR_$(FLAVOUR)) -MMD -MP
LIB_FLAGS := $(BASE) -Ilib -fPIC
SERVER_FLAGS = $(BASE) -Iserver $(HARDEN) $(SERVER_PACKAGES_CFLAGS)
TEST_FLAGS = $(BASE) -I. -Iserver -Ilib $(TEST_PACKAGES_CFLAGS)

# What must be there. It is looked for before anything is compiled; goals that begin with running or testing
# install what is missing, all others say how to.

SERVER_PACKAGES := libmicrohttpd libuv jansson zlib gnutls
DEBIAN_SERVER := libmicrohttpd-dev libuv1-dev libjansson-dev zlib1g-dev libgnutls28-dev
DEBIAN_RUN := gcc libc6-dev pkg-config $(DEBIAN_SERVER)
DEBIAN_TEST := $(DEBIAN_RUN) libcmocka-dev curl python3
DEBIAN_LINT := clang-format clang-tidy
DEBIAN_PACKAGE := build-essential debhelper git lintian xz-utils
DEBIAN_ARM64 := gcc-aarch64-linux-gnu libc6-dev-arm64-cross pkg-config qemu-user-static curl python3 \
	$(addsuffix :arm64,libc6-dev libcmocka-dev $(DEBIAN_SERVER))

TESTING := $(filter test check test-exhaustive clients load demo bench %-test $(B)/tests/%,$(MAKECMDGOALS))
INSTALLING := $(filter run test test-exhaustive clients load demo bench,$(MAKECMDGOALS))
DEPS := deps$(if $(TESTING),-test)
THERE = $(CC) --version && $(PKG_CONFIG) --print-errors --exists $(SERVER_PACKAGES) \
	$(if $(TESTING),cmocka && curl --version && python3 --version)

ready:
	$(Q){ $(THERE); } >/dev/null 2>&1 || { $(if $(INSTALLING),.ci/deps,.ci/deps --check "make $(DEPS)") \
		$(if $(TESTING),$(DEBIAN_TEST),$(DEBIAN_RUN)) && { $(THERE); } >/dev/null; }

## deps, deps-test, deps-lint: install what building, testing or linting lacks (Debian and Ubuntu)
deps:
	$(Q).ci/deps $(DEBIAN_RUN)
deps-test:
	$(Q).ci/deps $(DEBIAN_TEST)
deps-lint:
	$(Q).ci/deps $(DEBIAN_LINT)

# pkg-config is asked when a recipe first needs it, not while this file is read: on a fresh machine
# `make run` has yet to install it.
lazy = $(eval $(1) := $(shell $(2)))$($(1))
SERVER_PACKAGES_CFLAGS = $(call lazy,SERVER_PACKAGES_CFLAGS,$(PKG_CONFIG) --cflags $(SERVER_PACKAGES))
SERVER_PACKAGES_LIBS = $(call lazy,SERVER_PACKAGES_LIBS,$(PKG_CONFIG) --libs $(SERVER_PACKAGES))
TEST_PACKAGES_CFLAGS = $(call lazy,TEST_PACKAGES_CFLAGS,$(PKG_CONFIG) --cflags cmocka $(SERVER_PACKAGES))
TEST_PACKAGES_LIBS = $(call lazy,TEST_PACKAGES_LIBS,$(PKG_CONFIG) --libs cmocka $(SERVER_PACKAGES))

# The library: drivers and losses once per variant (ISA, element type), the rest once.

ISAS_x86_64 := scalar avx2 avx512
ISAS_aarch64 := scalar neon
ARCH := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null || uname -m)))
ISAS := $(or $(ISAS_$(ARCH)),scalar)
ELEMENTS := F64 F32 F16 BF16
ISA_scalar := -DLK_VECTOR_BYTES=0
ISA_avx2 := -DLK_VECTOR_BYTES=32 -mavx2 -mfma -mf16c
ISA_avx512 := -DLK_VECTOR_BYTES=64 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
ISA_neon := -DLK_VECTOR_BYTES=16
# -Wno-psabi: vectors are passed between inlined functions only, so no ABI is at stake. -g1: lines and
# functions; where variables of inlined vectors are takes a third of the time, and the debug flavour.
# GCC_LOOPS: clang does at -O2 what they ask for, and refuses their names.
GCC_LOOPS := -fpeel-loops -fvect-cost-model=dynamic
LOOPS = $(call lazy,LOOPS,$(CC) $(GCC_LOOPS) -Werror -E -x c /dev/null >/dev/null 2>&1 && echo $(GCC_LOOPS))
KERNEL = -O2 $(LOOPS) -g1 -fno-math-errno -Wno-psabi
# Under a sanitizer gcc 12 takes a vector of one lane, set in a loop over its lanes, for uninitialised.
KERNEL_FLAGS = $(LIB_FLAGS) $(if $(filter release,$(FLAVOUR)),$(KERNEL),$(filter-out -O2 -g1,$(KERNEL)) \
	-Wno-maybe-uninitialized)

VARIANT_SOURCES := $(wildcard lib/rows/*.c lib/losses/*.c)
ONE_LANE := $(shell sed -n 's,^ONE_LANE(\(.*\))$$,lib/losses/\1.c,p' lib/losses.def)
# What is computed in double, whatever the elements: one variant.
ONCE := $(shell sed -n 's,^ONCE(\(.*\))$$,lib/losses/\1.c,p' lib/losses.def)
# What is computed with reals alone, whatever the elements: no variants of 16 bits.
REALS := $(wildcard lib/rows/directed*.c lib/rows/head*.c) lib/rows/reals.c $(shell sed -n 's,^REALS(\(.*\))$$,lib/losses/\1.c,p' lib/losses.def)
$(foreach e,$(ELEMENTS),$(eval REAL_$(e) := $(if $(filter F64,$(e)),F64,F32)))
LIB_OBJS := $(patsubst lib/%.c,$(B)/lib/%.o,$(filter-out lib/variant.c,$(wildcard lib/*.c lib/vector/*.c)))

define variant_rules
$(B)/lib/$(1)_$(2)/%.o: lib/%.c | ready
	@mkdir -p $$(@D)
	$$(call say,CC,"$$< ($(1) $(2))")
	$$(Q)$$(CC) $$(KERNEL_FLAGS) $$(ISA_$(1)) -DLK_VARIANT=$(1)_$(2) -DLK_ISA=$(1) -DLK_ELEMENT_$(2) \
		$(if $(filter scalar_F64,$(1)_$(2)),-DLK_DESCRIBES) $$(CFLAGS) -c $$< -o $$@
$(B)/lib/$(1)_$(2)/variant.o: lib/variant.c | ready
	@mkdir -p $$(@D)
	$$(call say,CC,"$$< ($(1) $(2))")
	$$(Q)$$(CC) $$(KERNEL_FLAGS) -DLK_VARIANT=$(1)_$(2) -DLK_ONE_LANE=scalar_$(2) \
		-DLK_ONCE=scalar_F64 -DLK_REALS=$(1)_$(REAL_$(2)) $$(CFLAGS) -c $$< -o $$@
LIB_OBJS += $(B)/lib/$(1)_$(2)/variant.o $(patsubst lib/%.c,$(B)/lib/$(1)_$(2)/%.o, \
	$(filter-out $(if $(filter-out scalar,$(1)),$(ONE_LANE)) \
		$(if $(filter-out scalar_F64,$(1)_$(2)),$(ONCE)) $(if $(filter-out $(2),$(REAL_$(2))),$(REALS)), \
		$(VARIANT_SOURCES)))
endef
$(foreach isa,$(ISAS),$(foreach e,$(ELEMENTS),$(eval $(call variant_rules,$(isa),$(e)))))

$(B)/lib/%.o: lib/%.c | ready
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(LIB_FLAGS) $(CFLAGS) -c $< -o $@

$(B)/liblosskit.a: $(LIB_OBJS)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/liblosskit.so.0: $(LIB_OBJS) lib/losskit.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,liblosskit.so.0 -Wl,--version-script=lib/losskit.map -Wl,-z,relro,-z,now \
		$(FLAVOUR_$(FLAVOUR)) $(LIB_OBJS) $(CFLAGS) $(LDFLAGS) -lm -o $@


-include $(LIB_OBJS:.o=.d)

# The server.

SERVER_SOURCES := $(wildcard server/*.c server/*/*.c)
SERVER_OBJS := $(SERVER_SOURCES:server/%.c=$(B)/server/%.o)

$(B)/server/%.o: server/%.c | ready
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(SERVER_FLAGS) $(CFLAGS) -c $< -o $@

$(B)/server/catalogue/docs.o: $(wildcard server/catalogue/pages/*)

$(B)/lossd: $(SERVER_OBJS) $(B)/liblosskit.a
	$(call say,LD,$@)
	$(Q)$(CC) -pie -Wl,-z,relro,-z,now $(FLAVOUR_$(FLAVOUR)) $^ $(CFLAGS) $(LDFLAGS) $(SERVER_PACKAGES_LIBS) -lm -o $@

-include $(SERVER_OBJS:.o=.d)

build/lossd: $(B)/lossd
	$(Q)ln -sfn $(B:build/%=%)/lossd $@

## run: install what is missing, build, serve on 127.0.0.1:8080 (ARGS="--listen ...")
run: all
	build/lossd $(ARGS)

# Tests.

TESTS := $(B)/tests
comma := ,
UNIT_SOURCES := $(filter-out %/test_vmath.c,$(wildcard tests/unit/test_*.c))
UNITS := $(UNIT_SOURCES:tests/unit/%.c=$(TESTS)/%)
VMATH := $(foreach isa,$(ISAS),$(foreach e,F64 F32 F16 BF16,$(TESTS)/test_vmath_$(isa)_$(e)))
TORTURES := $(TESTS)/torture $(TESTS)/torture_http
PROGRAMS := $(TESTS)/test_golden $(TESTS)/check_losses $(TORTURES)
# Code that test programs share: an archive, from which each program links what it uses.
SUPPORT_OBJS := $(patsubst %.c,$(B)/%.o,$(wildcard tests/element.c tests/random.c tests/trial/*.c tests/request/*.c))
TESTED_OBJS = $(TESTS)/support.a $(filter-out %/main.o,$(SERVER_OBJS)) $(B)/liblosskit.a

$(TESTS)/%.o: tests/%.c | ready
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) -c $< -o $@

$(TESTS)/support.a: $(SUPPORT_OBJS)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

CHECK_OBJS := $(patsubst %.c,$(B)/%.o,$(wildcard tests/check/*.c))
$(TESTS)/check_losses: $(CHECK_OBJS) $(TESTED_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(FLAVOUR_$(FLAVOUR)) $^ $(CFLAGS) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm -o $@

# What it is made of needs the C library alone, so that other compilers and processors can have it.
$(TESTS)/bits: $(TESTS)/bits.o $(filter-out $(TESTS)/request/%,$(SUPPORT_OBJS)) $(B)/liblosskit.a
	$(call say,LD,$@)
	$(Q)$(CC) $(FLAVOUR_$(FLAVOUR)) $^ $(CFLAGS) $(LDFLAGS) -lpthread -lm -o $@

$(TESTS)/%: tests/unit/%.c $(TESTED_OBJS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) $< $(TESTED_OBJS) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm -o $@

$(TESTS)/%: tests/%.c $(TESTED_OBJS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) $< $(TESTED_OBJS) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm -o $@

# The C client, and the example of its README.
$(B)/clients/test_lossd: api/c/test_lossd.c api/c/lossd.h api/c/README.md
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(BASE) $(CFLAGS) $< $(LDFLAGS) $$($(PKG_CONFIG) --cflags --libs libcurl jansson cmocka) -lpthread -lm -o $@
	$(Q)sed -n '/^```c$$/,/^```$$/p' api/c/README.md | sed '1d;$$d' | \
		$(CC) -Iapi/c $(WARN) -x c - $$($(PKG_CONFIG) --cflags --libs libcurl jansson) -lm -o $@_example

# Allocations go through the program, which makes them fail one after another.
$(TORTURES): $(TESTS)/%: tests/%.c $(TESTED_OBJS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) $< $(TESTED_OBJS) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm \
		$(addprefix -Wl$(comma)--wrap=,malloc calloc realloc aligned_alloc strdup) -o $@

# Fuzz targets: with gcc they replay seeds, with clang's libFuzzer they look for more.
FUZZ_TARGETS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAYS := $(FUZZ_TARGETS:%=$(TESTS)/fuzz_%)
$(REPLAYS): $(TESTS)/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(TESTED_OBJS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) $(filter-out %.h %.def,$^) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm -o $@

define vmath_rules
$(TESTS)/test_vmath_$(1)_$(2): tests/unit/test_vmath.c $(B)/lib/vector/fused.o | ready
	@mkdir -p $$(@D)
	$$(call say,CC,"$$< ($(1) $(2))")
	$$(Q)$$(CC) $$(TEST_FLAGS) $$(KERNEL) $$(ISA_$(1)) -DLK_ELEMENT_$(2) $$(CFLAGS) $$(filter %.c %.o,$$^) $$(LDFLAGS) \
		$$(TEST_PACKAGES_LIBS) -lm -o $$@
endef
$(foreach isa,$(ISAS),$(foreach e,F64 F32 F16 BF16,$(eval $(call vmath_rules,$(isa),$(e)))))

-include $(wildcard $(TESTS)/*.d $(TESTS)/*/*.d)

## test: install what is missing, build, run every test
test: check

# A variant that this processor lacks is named and left out.
check: all $(UNITS) $(PROGRAMS) $(TESTS)/bits $(REPLAYS) $(VMATH) header-check api-check
	$(Q)$(foreach name,FLAVOUR CC CXX AR PKG_CONFIG EMULATOR,$(name)="$($(name))") tests/run.sh $(TESTS)

STEPS := $(LIB_OBJS) $(B)/liblosskit.a $(B)/liblosskit.so.0 $(SERVER_OBJS) $(B)/lossd $(if $(TESTING),\
	$(SUPPORT_OBJS) $(TESTS)/support.a $(UNITS) $(CHECK_OBJS) $(PROGRAMS) $(REPLAYS) $(VMATH))
$(foreach step,$(STEPS),$(eval STEPS_SO_FAR += x)$(eval STEP_$(step) := $(words $(STEPS_SO_FAR))))

## header-check: the public header alone, as C11, C17 and C++
.PHONY: header-check
header-check: | ready
	$(Q)for std in c11 c17; do \
		$(CC) -std=$$std -Iinclude $(WARN) -fsyntax-only -x c include/losskit.h || exit 1; done
	$(Q)if command -v $(CXX) >/dev/null; then $(CXX) -std=c++11 -Iinclude -Wall -Wextra -Wpedantic \
		-Wno-pragma-once-outside-header -fsyntax-only -x c++ include/losskit.h; fi

## asan, tsan: every test under the address and undefined, or the thread sanitizer
asan tsan:
	$(Q)$(MAKE) --no-print-directory FLAVOUR=$@ test

## same-bits: tests/bits.txt by other compilers and optimisations, and for arm64 by qemu, built in build/same/;
##   same-bits-clang-O2 is one of them. tests/replies N: N drawn requests, the same reply on every instruction set
SAME_gcc-O1 := CC=gcc CFLAGS=-O1
SAME_gcc-O3 := CC=gcc CFLAGS=-O3
SAME_clang-O1 := CC=clang CFLAGS=-O1
SAME_clang-O2 := CC=clang
SAME_arm64 := CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar LDFLAGS=-static
SAME := same-bits-gcc-O1 same-bits-gcc-O3 same-bits-clang-O1 same-bits-clang-O2 same-bits-arm64
same-bits: $(SAME)
$(SAME): same-bits-%:
	$(Q).ci/deps $(if $(filter arm64,$*),gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static,gcc clang)
	$(Q)$(MAKE) --no-print-directory B=build/same/$* $(SAME_$*) THERE=: TEST_PACKAGES_CFLAGS= build/same/$*/tests/bits
	$(if $(filter arm64,$*),qemu-aarch64-static) build/same/$*/tests/bits tests/bits.txt

## bits: tests/bits.txt anew, where results, losses or what is drawn for them were meant to change
bits: $(TESTS)/bits
	$(TESTS)/bits --write > $(B)/bits.txt && mv $(B)/bits.txt tests/bits.txt

## test-exhaustive: every f32 value through vmath.h, 10^8 through double.h, 10^7 numbers through the JSON scanner
test-exhaustive: $(VMATH) $(TESTS)/test_double $(TESTS)/test_number_read $(TESTS)/test_number_write
	$(Q)FLAVOUR=$(FLAVOUR) tests/run.sh $(TESTS) exhaustive

## clients: the tests of api/'s clients; where there is a node, a JDK
clients: all
	$(Q).ci/deps python3-numpy jq libcurl4-openssl-dev
	tests/console.sh $(B)/lossd api/shell/README.md
	cd api/python && LOSSD=$(abspath $(B))/lossd /usr/bin/python3 -m unittest tests.test_client tests.test_aio tests.test_llama tests.test_local
	$(Q)$(MAKE) --no-print-directory $(B)/clients/test_lossd
	cd api/c && LOSSD=$(abspath $(B))/lossd $(abspath $(B))/clients/test_lossd
	$(Q)if command -v javac >/dev/null; then javac -Xlint:all -Werror -d $(B)/clients/java api/java/*.java && \
		cd api/java && LOSSD=$(abspath $(B))/lossd java -cp $(abspath $(B))/clients/java lossd.LossdTest; fi
	$(Q)if command -v node >/dev/null; then cd api/javascript && LOSSD=$(abspath $(B))/lossd \
		TSC="$$(command -v $(abspath $(B))/schemas/node_modules/.bin/tsc)" npm test; fi

## pages: /docs and /status in a Chromium, where there is one and a node (packages of npm)
pages: all
	$(Q)if ! command -v chromium >/dev/null || ! command -v npm >/dev/null; then \
		echo "left out: /docs and /status, since there is no chromium or no npm"; else \
		npm install --silent --no-save --prefix $(B)/browser playwright-core axe-core && \
		tests/browser/pages.mjs --lossd $(B)/lossd --modules $(B)/browser --chromium "$$(command -v chromium)"; fi

## lint-api: what others think of api/openapi.json and docker's manifests (packages of npm)
lint-api:
	npm install --silent --no-save --prefix $(B)/schemas kubernetes-models @kubernetes-models/prometheus-operator \
		typescript yaml
	node docker/validate.mjs $(B)/schemas
	npx --yes @redocly/cli lint api/openapi.json
	npx --yes @stoplight/spectral-cli lint api/openapi.json --ruleset api/.spectral.yaml

## load: overload, SIGTERM, slow clients, large bodies, soak; load generators, and a page with charts (tests/load/README.md)
load: all $(TESTS)/client
	$(Q).ci/deps slowhttptest curl wrk nghttp2-client hey
	$(Q)if command -v npm >/dev/null; then mkdir -p $(B)/generators && cp tests/load/package.json $(B)/generators && \
		npm install --silent --ignore-scripts --no-audit --no-fund --prefix $(B)/generators; fi
	$(Q)tests/load/report.py --lossd $(B)/lossd --client $(TESTS)/client --modules $(B)/generators --page $(B)/load.html
	$(Q)tests/load/overload.py --lossd $(B)/lossd --client $(TESTS)/client
	$(Q)tests/load/sigterm.py --lossd $(B)/lossd
	$(Q)tests/load/slow.py --lossd $(B)/lossd --plot $(B)/slow.svg
	$(Q)tests/load/large.py --lossd $(B)/lossd
	$(Q)tests/load/soak.py --lossd $(B)/lossd --client $(TESTS)/client --plot $(B)/soak.svg

## fuzz: each target for FUZZ_SECONDS (60), under address and undefined; FUZZ="oip json" chooses
FUZZ_SECONDS ?= 60
FUZZ ?= $(FUZZ_TARGETS)
fuzz: deps-test
	$(Q).ci/deps clang
	$(Q)$(MAKE) --no-print-directory FLAVOUR=release all
	$(Q)$(MAKE) --no-print-directory FLAVOUR=fuzz CC=clang fuzzers
	$(Q)tests/fuzz/run.sh build/fuzz/tests $(FUZZ_SECONDS) $(FUZZ)

# The kernels are the release's: check_losses looks at them under sanitizers, fuzzers at what reads bytes.
FUZZERS := $(FUZZ_TARGETS:%=$(TESTS)/libfuzzer_%)
fuzzers: $(FUZZERS)
$(FUZZERS): $(TESTS)/libfuzzer_%: tests/fuzz/fuzz_%.c $(filter-out %/main.o,$(SERVER_OBJS)) build/release/liblosskit.a
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) -fsanitize=fuzzer $(filter-out %.h %.def,$^) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm -o $@

## seeds: the seeds of the fuzz targets, from api/examples
seeds:
	$(Q)tests/fuzz/seeds.py

## valgrind: the unit tests and goldens under memcheck
valgrind: deps-test
	$(Q).ci/deps valgrind
	$(Q)$(MAKE) --no-print-directory FLAVOUR=debug $(UNITS:$(B)/%=build/debug/%) build/debug/tests/test_golden
	$(Q)for t in $(UNITS:$(B)/%=build/debug/%) build/debug/tests/test_golden; do \
		valgrind -q --error-exitcode=1 $$t || exit 1; done

## demo: a batch of a trained model's logits through lossd, beside PyTorch's numbers
demo: all
	$(Q)tests/data/demo.sh build/lossd

## bench: kernels beside memcpy and PyTorch (where it is there), numbers as text, lossd beside an echo;
##   FORMER=liblosskit.so.0 of an older build: every loss with both
BENCHES := $(patsubst tests/bench/%.c,$(TESTS)/%,$(wildcard tests/bench/bench_*.c))
bench: all $(BENCHES) $(TESTS)/echo $(TESTS)/client $(TESTS)/former
	$(if $(FORMER),$(Q)$(TESTS)/former $(FORMER) $(B)/liblosskit.so.0)
	$(Q)for b in $(BENCHES); do $$b || exit 1; done
	$(Q)/usr/bin/python3 tests/bench/pytorch.py --losskit $(B)/liblosskit.so.0
	$(Q)tests/bench/service.py --lossd $(B)/lossd --tools $(TESTS)
	$(Q)PYTHONPATH=api/python LOSSKIT_LIBRARY=$(B)/liblosskit.so.0 /usr/bin/python3 tests/bench/regions.py --lossd $(B)/lossd
	$(Q)tests/bench/link.py --lossd $(B)/lossd

# Of the library alone, so that it can be built for another processor.
$(TESTS)/former: tests/bench/former.c $(B)/liblosskit.a
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) $^ $(LDFLAGS) -ldl -lpthread -lm -o $@

$(TESTS)/%: tests/bench/%.c $(TESTED_OBJS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(TEST_FLAGS) $(CFLAGS) $< $(TESTED_OBJS) $(LDFLAGS) $(TEST_PACKAGES_LIBS) -lm -o $@

# Generated files.

## api: regenerate api/ from the descriptions and goldens
api: all
	$(Q)$(B)/lossd openapi > api/openapi.json
	$(Q)$(B)/lossd manual > api/lossd.1
	$(Q)$(B)/lossd completion > api/lossd.bash
	$(Q)$(B)/lossd describe --markdown | cat - api/errata.md > api/losses.md
	$(Q)mkdir -p api/examples
	$(Q)for name in $$($(B)/lossd describe | cut -d' ' -f1); do \
		$(B)/lossd describe $$name --example > api/examples/$$name.json || exit 1; done
	$(Q)python3 tests/golden/cases.py > api/cases.jsonl

api-check: all
	$(Q)$(EMULATOR) $(B)/lossd openapi | cmp - api/openapi.json \
		&& $(EMULATOR) $(B)/lossd manual | cmp - api/lossd.1 && $(EMULATOR) $(B)/lossd completion | cmp - api/lossd.bash \
		&& $(EMULATOR) $(B)/lossd describe --markdown | cat - api/errata.md | cmp - api/losses.md \
		&& for name in $$($(EMULATOR) $(B)/lossd describe | cut -d' ' -f1); do \
			$(EMULATOR) $(B)/lossd describe $$name --example | cmp - api/examples/$$name.json || exit 1; done \
		&& python3 tests/golden/cases.py | cmp - api/cases.jsonl \
		|| { echo "api/ is not what the descriptions say; run 'make api' and commit" >&2; exit 1; }

# Lint.

FORMATTED = $(wildcard include/*.h lib/*.[ch] lib/*/*.[ch] server/*.[ch] server/*/*.[ch] tests/*.[ch] tests/*/*.[ch])

## format: clang-format every source in place
format:
	$(Q)clang-format -i $(FORMATTED)

format-check:
	$(Q)clang-format --dry-run -Werror $(FORMATTED)

## lint: format, who may include whom, what leaves the library, clang-tidy
lint: format-check all
	$(Q)B=$(B) .ci/lint
	$(Q)$(call tidy,$(SERVER_SOURCES),$(SERVER_FLAGS))
	$(Q)$(call tidy,$(filter-out lib/variant.c,$(wildcard lib/*.c lib/vector/*.c)),$(LIB_FLAGS))
	$(Q)$(call tidy,$(VARIANT_SOURCES),$(filter-out $(GCC_LOOPS),$(KERNEL_FLAGS)) \
		$(ISA_scalar) -DLK_VARIANT=scalar_F32 -DLK_ISA=scalar -DLK_ELEMENT_F32)

# sources, flags: as many files at once as there are cores.
tidy = printf '%s\n' $(1) | xargs -P $$(nproc) -I FILE clang-tidy --quiet FILE -- $(filter-out -MMD -MP -Werror,$(2)) 2>/dev/null

## compile_commands.json: for editors
compile_commands.json: clean
	bear -- $(MAKE) all

## coverage: line coverage of the tests, as text
coverage:
	$(Q)$(MAKE) --no-print-directory FLAVOUR=debug CFLAGS="--coverage" LDFLAGS="--coverage" test
	$(Q)cd build/debug && find . -name '*.gcda' | xargs gcov -n 2>/dev/null | grep -A1 -E "^File '(lib|server)/" \
		| sed 'N;s/\n/ /;s/--//'

# Installing.

## install, uninstall: under PREFIX (/usr/local), with DESTDIR
FILL = sed -e 's|@prefix@|$(PREFIX)|;s|@libdir@|$(LIBDIR)|;s|@includedir@|$(INCLUDEDIR)|;s|@version@|$(VERSION)|'
install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(LIBDIR)/cmake/losskit \
		$(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(COMPLETIONDIR) $(DESTDIR)$(DOCDIR)
	install $(B)/lossd $(DESTDIR)$(BINDIR)/lossd
	install -m 644 include/losskit.h $(DESTDIR)$(INCLUDEDIR)/losskit.h
	install -m 644 $(B)/liblosskit.a $(DESTDIR)$(LIBDIR)/liblosskit.a
	install -m 644 $(B)/liblosskit.so.0 $(DESTDIR)$(LIBDIR)/liblosskit.so.$(VERSION)
	ln -sfn liblosskit.so.$(VERSION) $(DESTDIR)$(LIBDIR)/liblosskit.so.0
	ln -sfn liblosskit.so.0 $(DESTDIR)$(LIBDIR)/liblosskit.so
	$(FILL) lib/losskit.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/losskit.pc
	$(FILL) lib/losskitConfig.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/losskit/losskitConfig.cmake
	$(FILL) lib/losskitConfigVersion.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/losskit/losskitConfigVersion.cmake
	install -m 644 api/lossd.1 $(DESTDIR)$(MANDIR)/man1/lossd.1
	install -m 644 api/lossd.bash $(DESTDIR)$(COMPLETIONDIR)/lossd
	install -m 644 LICENSE CHANGELOG.md $(DESTDIR)$(DOCDIR)

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/lossd $(DESTDIR)$(INCLUDEDIR)/losskit.h $(DESTDIR)$(LIBDIR)/liblosskit.a \
		$(DESTDIR)$(LIBDIR)/liblosskit.so* $(DESTDIR)$(LIBDIR)/pkgconfig/losskit.pc \
		$(DESTDIR)$(LIBDIR)/cmake/losskit/losskitConfig*.cmake $(DESTDIR)$(MANDIR)/man1/lossd.1 \
		$(DESTDIR)$(COMPLETIONDIR)/lossd $(DESTDIR)$(DOCDIR)/LICENSE $(DESTDIR)$(DOCDIR)/CHANGELOG.md

# Another processor.

## arm64: library, lossd and tests compiled for arm64 and run by qemu; arm64-library: the one alone, not run
ARM64 := B=build/arm64 CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ AR=aarch64-linux-gnu-ar
ARM64_PKG_CONFIG := env PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig pkg-config
arm64:
	$(Q).ci/deps $(DEBIAN_ARM64)
	$(Q)$(MAKE) --no-print-directory $(ARM64) PKG_CONFIG="$(ARM64_PKG_CONFIG)" EMULATOR=qemu-aarch64-static check
arm64-library:
	$(Q).ci/deps gcc-aarch64-linux-gnu libc6-dev-arm64-cross
	$(Q)$(MAKE) --no-print-directory $(ARM64) THERE=: build/arm64/liblosskit.so.0

## bench-arm64: instructions of every kind of loss, counted by qemu, with FORMER=liblosskit.so.0 of an older build for arm64
bench-arm64:
	$(if $(wildcard $(FORMER)),,$(error FORMER is "$(FORMER)"; it must be liblosskit.so.0 of an older build for arm64 (make arm64-library)))
	$(Q).ci/deps gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
	$(Q)$(MAKE) --no-print-directory $(ARM64) THERE=: TEST_PACKAGES_CFLAGS= build/arm64/liblosskit.so.0 build/arm64/tests/former
	$(Q)$(CC) $(CFLAGS) -shared -fPIC tests/bench/instructions.c -o build/arm64/tests/instructions.so
	$(Q)cd build/arm64 && qemu-aarch64 -L /usr/aarch64-linux-gnu -plugin tests/instructions.so,counter=tests/counter \
		tests/former --isa neon --counter tests/counter $(abspath $(FORMER)) $(abspath build/arm64/liblosskit.so.0)

# Packages.

## packages: Debian's, a wheel for pip and packages for npm (needs node), in build/packages (docker/packages.sh tries them)
packages: packages-deb packages-wheel packages-npm
packages-deb:
	$(Q).ci/deps $(DEBIAN_RUN) $(DEBIAN_PACKAGE)
	$(Q)docker/packages/deb.sh

# For pip and npm: lossd and the library, with all that they need but glibc beside them.
NATIVE := $(B)/native
# Its name changed with libuv 1.45.
UV_STATIC = $(call lazy,UV_STATIC,test -f "$$($(CC) -print-file-name=libuv_a.a)" && echo libuv_a.a || echo libuv.a)
STATIC = libmicrohttpd.a libjansson.a libz.a $(UV_STATIC)

$(NATIVE)/lossd: $(SERVER_OBJS) $(B)/liblosskit.so.0 docker/packages/native.py
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -pie -Wl,-z,relro,-z,now -Wl,-rpath,'$$ORIGIN' -Wl,--disable-new-dtags $(FLAVOUR_$(FLAVOUR)) \
		$(SERVER_OBJS) $(B)/liblosskit.so.0 $(CFLAGS) $(LDFLAGS) $(STATIC:%=-l:%) -lgnutls -lm -o $@
	$(Q)docker/packages/native.py --cc "$(CC)" $(STATIC:%=--static %) $@ $(B)/liblosskit.so.0

packages-wheel: $(NATIVE)/lossd
	$(Q)docker/packages/wheel.py --cc "$(CC)" --native $(NATIVE) --version $(VERSION) --into build/packages

packages-npm: $(NATIVE)/lossd
	$(Q)command -v npm >/dev/null || .ci/deps npm
	$(Q)docker/packages/npm.mjs $(VERSION) build/packages $(NATIVE)

## ci: what .ci/run does
ci:
	.ci/run

## clean: remove build/
clean:
	rm -rf build

## help: this list
help:
	@sed -n 's/^## //p' Makefile
