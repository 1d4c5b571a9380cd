# kvlab: `make` builds ./kvlab, `make test` runs everything, `make demo` shows it; `make help` lists the rest.
config  ?= release
BUILD   ?= build/$(config)
CC      ?= gcc
MODULES ?= base conf gguf format text backend model cache policy engine task stats run
TESTS   ?= *
PKGS    := yaml-0.1 libpcre2-8 jansson libxxhash hdf5 libcrypto

WARN    := -Wall -Wextra -Wshadow=local -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter -Wno-format-truncation -Werror
CFLAGS_release := -O3 -DNDEBUG
CFLAGS_debug   := -O1 -DKVLAB_CHECKS
CFLAGS_san     := -O1 -DKVLAB_CHECKS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_cov     := -O0 --coverage
CFLAGS  := -std=gnu11 -g $(CFLAGS_$(config)) -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp -pthread $(WARN) -Isrc -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LDLIBS  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lhdf5_hl -lz -lm -ldl

SRCS    := $(foreach m,$(MODULES),$(shell find src/$(m) -name '*.c' ! -name main.c 2>/dev/null)) $(if $(filter backend,$(MODULES)),$(wildcard kernels/cpu/*.c))
OBJS    := $(SRCS:%.c=$(BUILD)/%.o)
LIB     := $(BUILD)/libkvlab.a
SUPPORT := $(wildcard tests/support/*.c)
UNIT    := $(wildcard $(foreach d,unit golden oracle property,tests/$(d)/test_$(TESTS).c))
UNITBIN := $(UNIT:%.c=$(BUILD)/%)

.PHONY: all unit clean
all: kvlab
kvlab: $(BUILD)/src/run/main.o $(LIB)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)
$(LIB): $(OBJS)
	@rm -f $@; ar rcs $@ $^
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/libsupport.a: $(SUPPORT:%.c=$(BUILD)/%.o) # an archive: a test of a low module does not need what the helpers of a high one need
	@rm -f $@; ar rcs $@ $^
$(UNITBIN): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libsupport.a $(LIB)
	$(CC) $(CFLAGS) -o $@ $^ -lcmocka $(LDLIBS)
unit: $(UNITBIN)
	@for t in $(UNITBIN); do echo "== $$t"; $$t || exit 1; done
clean:
	rm -rf build kvlab
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
