/* bpf.h - what the kernel does with a seccomp program, written from its sources
 * (net/core/filter.c, kernel/seccomp.c) and independent of csrc/filter.c. */
#ifndef EB_FUZZ_BPF_H
#define EB_FUZZ_BPF_H

#include "evalbox.h"
#include "fuzz.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

/* bpf_check_classic() and seccomp_check_filter() accept it. */
static inline void
require_accepted(const struct eb_insn *program, size_t length)
{
    REQUIRE(length > 0 && length <= BPF_MAXINSNS);
    for (size_t at = 0; at < length; at++) {
        const struct eb_insn *insn = &program[at];
        size_t left = length - at - 1;
        switch (insn->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            REQUIRE(insn->k < sizeof(struct seccomp_data) && insn->k % 4 == 0);
            break;
        case BPF_JMP | BPF_JA:
            REQUIRE(insn->k < left);
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
        case BPF_JMP | BPF_JGE | BPF_K:
        case BPF_JMP | BPF_JGT | BPF_K:
        case BPF_JMP | BPF_JSET | BPF_K:
            REQUIRE(insn->jt < left && insn->jf < left);
            break;
        case BPF_ALU | BPF_AND | BPF_K:
        case BPF_RET | BPF_K:
            break;
        default:
            FAIL("an instruction that the compiler does not use");
        }
    }
    REQUIRE(program[length - 1].code == (BPF_RET | BPF_K));
}

/* What an accepted program answers. */
static inline uint32_t
interpret(const struct eb_insn *program, size_t length, const struct seccomp_data *call)
{
    uint32_t accumulator = 0;
    for (size_t at = 0; at < length; at++) {
        const struct eb_insn *insn = &program[at];
        uint32_t k = insn->k;
        int holds = 0;
        switch (insn->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            memcpy(&accumulator, (const char *)call + k, sizeof accumulator);
            continue;
        case BPF_ALU | BPF_AND | BPF_K:
            accumulator &= k;
            continue;
        case BPF_JMP | BPF_JA:
            at += k;
            continue;
        case BPF_RET | BPF_K:
            return k;
        case BPF_JMP | BPF_JEQ | BPF_K:
            holds = accumulator == k;
            break;
        case BPF_JMP | BPF_JGE | BPF_K:
            holds = accumulator >= k;
            break;
        case BPF_JMP | BPF_JGT | BPF_K:
            holds = accumulator > k;
            break;
        default:
            holds = (accumulator & k) != 0;
        }
        at += holds ? insn->jt : insn->jf;
    }
    FAIL("the program ends without an answer");
}

#endif
