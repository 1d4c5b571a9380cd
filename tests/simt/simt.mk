# The SIMT executor and its tests: `make simt` builds and runs them, config=san with the executor and unhooked kernels under sanitizers.
# SIMT_CXX=clang++ builds with clang. No toolkit is needed.
comma := ,
SIMT_CXX    ?= g++
SIMT_BUILD  ?= build/simt/$(SIMT_CXX)$(if $(filter san,$(config)),-san)
SIMT_FLAGS  := -std=c++17 -g -Wall -Wextra -Werror -fno-strict-aliasing -ffp-contract=off -pthread -Itests/simt
SIMT_SAN    := $(if $(filter san,$(config)),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
# The checker's hooks: the sanitizer's calls, answered by our library, so programs are linked without the flag.
SIMT_HOOKED := -O1 -fsanitize=thread $(if $(findstring clang,$(SIMT_CXX)),-mllvm -tsan-instrument-func-entry-exit=0,--param tsan-instrument-func-entry-exit=0)
SIMT_COUNTED := $(SIMT_HOOKED) $(if $(findstring clang,$(SIMT_CXX)),-fsanitize-coverage=bb$(comma)no-prune$(comma)trace-pc,-fsanitize-coverage=trace-pc)
SIMT_LIB    := $(patsubst %,$(SIMT_BUILD)/%.o,fiber block warp arena launch stream report check hooks count count_code)
SIMT_CASES  := cases_lists cases_matrices cases_attention cases_block cases_tricky cases_stream
SIMT_TOOLKIT := $(firstword $(wildcard $(dir $(shell command -v nvcc 2>/dev/null))../include/cuda_fp8.h))

SIMT_PROGRAMS := $(patsubst %,$(SIMT_BUILD)/%,test_types plain/test_samples plain/test_executor plain/test_streams checked/test_samples \
                 checked/test_executor checked/test_streams checked/test_bugs checked/test_races checked/test_mutants counted/test_count)

.PHONY: simt simt-programs
simt:
	@MAKE="$(MAKE)" scripts/run_simt.sh $(config)
simt-programs: $(SIMT_PROGRAMS)

$(SIMT_BUILD)/%.o: tests/simt/%.cpp
	@mkdir -p $(@D)
	$(SIMT_CXX) $(SIMT_FLAGS) $(SIMT_SAN) -O2 -MMD -MP -c -o $@ $<
$(SIMT_BUILD)/plain/%.o: tests/simt/%.cpp
	@mkdir -p $(@D)
	$(SIMT_CXX) $(SIMT_FLAGS) $(SIMT_SAN) -O2 -MMD -MP -c -o $@ $<
$(SIMT_BUILD)/checked/%.o: tests/simt/%.cpp
	@mkdir -p $(@D)
	$(SIMT_CXX) $(SIMT_FLAGS) $(SIMT_HOOKED) -MMD -MP -c -o $@ $<
$(SIMT_BUILD)/counted/%.o: tests/simt/%.cpp
	@mkdir -p $(@D)
	$(SIMT_CXX) $(SIMT_FLAGS) $(SIMT_COUNTED) -MMD -MP -c -o $@ $<
$(SIMT_BUILD)/toolkit/test_types.o: tests/simt/test_types.cpp
	@mkdir -p $(@D)
	$(SIMT_CXX) $(SIMT_FLAGS) $(SIMT_SAN) -O1 $(if $(SIMT_TOOLKIT),-DWITH_TOOLKIT) -MMD -MP -c -o $@ $<
$(SIMT_BUILD)/toolkit/types_toolkit.o: tests/simt/types_toolkit.cpp tests/simt/types_api.inc
	@mkdir -p $(@D)
	$(SIMT_CXX) -std=c++17 -O1 -isystem $(dir $(SIMT_TOOLKIT)) -c -o $@ $<

$(SIMT_BUILD)/test_types: $(SIMT_BUILD)/toolkit/test_types.o $(if $(SIMT_TOOLKIT),$(SIMT_BUILD)/toolkit/types_toolkit.o)
$(SIMT_BUILD)/plain/test_samples: $(patsubst %,$(SIMT_BUILD)/plain/%.o,test_samples $(SIMT_CASES)) $(SIMT_LIB)
$(SIMT_BUILD)/plain/test_executor: $(SIMT_BUILD)/plain/test_executor.o $(SIMT_LIB)
$(SIMT_BUILD)/plain/test_streams: $(SIMT_BUILD)/plain/test_streams.o $(SIMT_LIB)
$(SIMT_BUILD)/checked/test_samples: $(patsubst %,$(SIMT_BUILD)/checked/%.o,test_samples $(SIMT_CASES)) $(SIMT_LIB)
$(SIMT_BUILD)/checked/test_mutants: $(patsubst %,$(SIMT_BUILD)/checked/%.o,test_mutants $(SIMT_CASES)) $(SIMT_LIB)
$(SIMT_BUILD)/checked/test_executor: $(SIMT_BUILD)/checked/test_executor.o $(SIMT_LIB)
$(SIMT_BUILD)/checked/test_streams: $(SIMT_BUILD)/checked/test_streams.o $(SIMT_LIB)
$(SIMT_BUILD)/checked/test_bugs: $(patsubst %,$(SIMT_BUILD)/checked/%.o,test_bugs bugs_races bugs_memory bugs_order) $(SIMT_LIB)
$(SIMT_BUILD)/checked/test_races: $(SIMT_BUILD)/checked/test_races.o $(SIMT_LIB)
$(SIMT_BUILD)/counted/test_count: $(SIMT_BUILD)/counted/test_count.o $(SIMT_LIB)
$(SIMT_PROGRAMS):
	$(SIMT_CXX) $(SIMT_SAN) -g -pthread -o $@ $^
# nvcc looks at the same sources; nothing is run.
$(SIMT_BUILD)/nvcc/%.o: tests/simt/%.cpp $(wildcard kernels/cuda/*.cuh kernels/cuda/*/*)
	@mkdir -p $(@D)
	nvcc -std=c++17 -arch=$(or $(SIMT_ARCH),sm_89) -Werror all-warnings -Xcompiler -Wall -x cu -c -o $@ $<
simt-nvcc: $(patsubst %,$(SIMT_BUILD)/nvcc/%.o,$(SIMT_CASES))
.PHONY: simt-nvcc

-include $(wildcard $(SIMT_BUILD)/*.d $(SIMT_BUILD)/*/*.d)
