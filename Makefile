# kvlab: `make` builds ./kvlab, `make test` runs everything, `make demo` shows it; `make help` lists the rest.
# Nothing here needs more than make and a shell until something is built: `make demo` and `make test` install what is missing.
config  ?= release
BUILD   ?= build/$(config)
MODULES ?= base conf gguf format text backend model cache policy engine task stats run
TESTS   ?= *
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)
ifeq ($(origin CC),default)
CC      := gcc
endif
ifeq ($(filter $(config),release debug san cov),)
$(error config=$(config) is unknown; known: release debug san cov)
endif

PKGS    := yaml-0.1 libpcre2-8 jansson libxxhash hdf5 libcrypto
WARN    := -Wall -Wextra -Wshadow=local -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter \
           -Wno-format-truncation -Werror
CFLAGS_release := -O3 -DNDEBUG
CFLAGS_debug   := -O1 -DKVLAB_CHECKS
# The sanitizers' own code confuses flow analysis: gcc documents false alarms of these two.
CFLAGS_san     := -O1 -DKVLAB_CHECKS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer \
                  -Wno-maybe-uninitialized -Wno-restrict
CFLAGS_cov     := -O0 --coverage
CFLAGS  := -std=gnu11 -g $(CFLAGS_$(config)) -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp -pthread $(WARN) -Isrc -I. \
           $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LDLIBS  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lhdf5_hl -lz -lm -ldl
# OpenBLAS checks results in tests only; --as-needed keeps its threads out of programs that do not call it.
TEST_CFLAGS := $(shell pkg-config --cflags openblas 2>/dev/null)
TEST_LDLIBS := -Wl,--as-needed -lcmocka $(shell pkg-config --libs openblas 2>/dev/null) $(LDLIBS)

SRCS    := $(foreach m,$(MODULES),$(shell find src/$(m) -name '*.c' ! -name main.c 2>/dev/null)) $(if $(filter backend,$(MODULES)),$(wildcard kernels/cpu/*.c))
OBJS    := $(SRCS:%.c=$(BUILD)/%.o)
LIB     := $(BUILD)/libkvlab.a
# An archive: a test of a low module does not need what the helpers of a high one need.
SUPPORT := $(wildcard tests/support/*.c)
SUPPORT_LIB := $(BUILD)/libsupport.a
UNIT    := $(wildcard $(foreach d,unit golden oracle property,tests/$(d)/test_$(TESTS).c))
UNITBIN := $(UNIT:%.c=$(BUILD)/%)
FUZZ    := $(wildcard tests/fuzz/fuzz_*.c)
FUZZBIN := $(FUZZ:%.c=$(BUILD)/%)
E2EBIN  := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/e2e/*.c))
PROGRAMS := $(UNITBIN) $(FUZZBIN) $(E2EBIN)
FUZZ_SECONDS ?= 5

.PHONY: all demo test unit fuzz e2e layers deps model models tests bench help format format-check clean FORCE

all: $(BUILD)/kvlab ## build the program: ./kvlab (release), build/CONFIG/kvlab with config=debug|san|cov
ifeq ($(BUILD),build/release)
all: kvlab
kvlab: $(BUILD)/kvlab
	@cp -f $< $@.tmp && mv -f $@.tmp $@
else
kvlab: $(BUILD)/kvlab
endif

demo: ## install what is missing, build, fetch the model, run experiments/demo.yaml
	@scripts/install_deps.sh run
	@+$(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS)) config=release all
	@scripts/fetch_model.sh
	./kvlab run experiments/demo.yaml
	@echo "Done. The table is above; plots, report.html, sweep.h5 and the exported numbers are in results/demo/."

test: ## install what is missing, then every test: release, sanitizers, layers, fuzzers, end to end
	@scripts/install_deps.sh test
	@scripts/fetch_model.sh
	@+MAKE="$(MAKE)" scripts/run_tests.sh

unit: $(UNITBIN) ## unit, golden, oracle and property tests of this config; TESTS="conf*" for some
	@for t in $(UNITBIN); do echo "== $$t"; $$t || exit 1; done

fuzz: ## each fuzzer for FUZZ_SECONDS under sanitizers
	@+$(MAKE) --no-print-directory config=san $(FUZZ:%.c=build/san/%)
	@for f in $(FUZZ:%.c=build/san/%); do $$f $(FUZZ_SECONDS) || exit 1; done

e2e: all $(E2EBIN) ## end-to-end scripts in tests/e2e, on the program as users call it
	@MAKE="$(MAKE)" scripts/run_tests.sh e2e

layers: ## fail when a file includes from a layer above its own
	@scripts/check_layers.sh

tests: $(UNITBIN) $(FUZZBIN) $(E2EBIN) ## build all test programs without running them

bench: all ## time kernels, prefill, decode, batches and the allocator of the default model beside the machine's limits
	@scripts/fetch_model.sh
	$(BUILD)/kvlab bench

deps: ## install the packages that building, running and testing need (Debian)
	@scripts/install_deps.sh test

model: ## fetch the default model into the user's cache
	@scripts/fetch_model.sh

models: ## fetch also gemma3-270m, for tests of its architecture
	@scripts/fetch_model.sh smollm2-135m gemma3-270m

format: ## clang-format over our C files
	clang-format -i $(shell find src kernels tests -name '*.[ch]')

format-check: ## the same, only telling
	clang-format --dry-run -Werror $(shell find src kernels tests -name '*.[ch]')

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#=]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo "Variables: config=release|debug|san|cov  TESTS='glob'  FUZZ_SECONDS=$(FUZZ_SECONDS)  JOBS=$(JOBS)  V=1 (shows commands)"

clean: ## remove everything built
	rm -rf build kvlab

# Objects are rebuilt when compiler or flags change. A new folder starts with an old stamp.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D); f='$(CC) $(CFLAGS)'; if [ ! -e $@ ]; then echo "$$f" >$@; touch -d @0 $@; \
	elif [ "$$(cat $@)" != "$$f" ]; then echo "$$f" >$@; fi

# What a result says about its program: the commit, whether the sources differ from it, and how it was built.
GIT_COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
GIT_DIRTY  := $(if $(shell git status --porcelain --untracked-files=no 2>/dev/null | head -n 1),1,0)
$(BUILD)/commit: FORCE
	@mkdir -p $(@D); c='$(GIT_COMMIT) $(GIT_DIRTY)'; [ "$$(cat $@ 2>/dev/null)" = "$$c" ] || echo "$$c" >$@
$(BUILD)/src/run/build_info.o: $(BUILD)/commit
$(BUILD)/src/run/build_info.o: private CFLAGS += -DKVLAB_GIT_COMMIT='"$(GIT_COMMIT)"' -DKVLAB_GIT_DIRTY=$(GIT_DIRTY) \
    -DKVLAB_BUILD_FLAGS='"$(CFLAGS_$(config)) -ffp-contract=off -fopenmp"'

# V=1 shows the commands, -s nothing
say = $(if $(V),,$(if $(findstring s,$(firstword -$(MAKEFLAGS))),,@printf '  %-5s %s\n' $1 $2; ))
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/tests/%.o: private CFLAGS += $(TEST_CFLAGS)
$(LIB): $(OBJS)
	@rm -f $@; ar rcs $@ $^
$(SUPPORT_LIB): $(SUPPORT:%.c=$(BUILD)/%.o)
	@rm -f $@; ar rcs $@ $^
$(BUILD)/kvlab: $(BUILD)/src/run/main.o $(LIB)
	$(call say,LINK,$@)$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)
$(PROGRAMS): $(BUILD)/%: $(BUILD)/%.o $(SUPPORT_LIB) $(LIB)
	$(call say,LINK,$@)$(CC) $(CFLAGS) -o $@ $^ $(TEST_LDLIBS)

-include $(OBJS:.o=.d) $(SUPPORT:%.c=$(BUILD)/%.d) $(PROGRAMS:=.d) $(BUILD)/src/run/main.d

-include tests/simt/simt.mk # make simt
