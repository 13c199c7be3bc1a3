/* filter.c - rules for system calls made into a classic BPF program.
 *
 * Pure: no system call, no allocation, nothing kept.  The shape of a program:
 *
 *     another architecture? -> foreign_action
 *     binary tree of JGE over ranges of numbers with the same verdict,
 *       x32 and what is above the table being ranges like the others
 *     at its leaves: a shared return, or the tests of one rule
 *
 * When a filter is installed the kernel emulates it for every system call
 * number to find those that it always allows (kernel/seccomp.c, Linux 5.11), so
 * it is depth that costs, not length; hence the tree.
 *
 * A conditional jump reaches at most 255 instructions forward and never back.
 * So the program is written from its end to its start: every target exists
 * when a jump to it is written, and one that has come out of reach is brought
 * near first, a return by repeating it, anything else by a long jump. */
#include "evalbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <string.h>

/* A 64-bit argument is two words in memory, the low one first. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words of arguments are swapped");

enum {
    MAX_RANGES = EB_FILTER_MAX, /* each but the first costs an instruction */
    RANGES_PER_STEP = 4,        /* added at most between two looks at the count */
    MAX_RETURNS = 16,           /* different actions remembered */
    ARGUMENTS = 6,
    WORDS = 2 * ARGUMENTS,
    /* Bringing the other target of the same jump near may put one more
     * instruction in between. */
    REACH = UINT8_MAX - 1,
};
#define NR_OFFSET ((uint32_t)offsetof(struct seccomp_data, nr))
#define ARCH_OFFSET ((uint32_t)offsetof(struct seccomp_data, arch))
#define ARGS_OFFSET ((uint32_t)offsetof(struct seccomp_data, args))
#define X32_FIRST 0x40000000U /* __X32_SYSCALL_BIT */
#define X32_LAST 0x7fffffffU
#define NO_WORD UINT32_MAX

/* Where to go: to an instruction, or to any return of this action. */
struct target {
    bool is_return;
    uint32_t action;
    size_t at;
};

/* Numbers from `first` to the next range's. */
struct range {
    uint32_t first;
    uint32_t action;
    const struct eb_rule *rule; /* NULL: always `action` */
};

struct writer {
    const struct eb_filter_spec *spec;
    struct eb_insn *insns;
    size_t at; /* the instruction written last; everything after it is done */
    bool full;
    size_t n_returns;
    struct target returns[MAX_RETURNS]; /* the nearest of each action */
};

struct ranges {
    size_t count;
    struct range items[MAX_RANGES];
};

/* Comparing one 32-bit word of the arguments. */
struct comparison {
    uint32_t word;
    uint32_t mask;
    uint32_t value;
};

/* ---- what a spec must be ---- */

static bool
fits(size_t first, size_t count, size_t total)
{
    return first <= total && count <= total - first;
}

static bool
is_valid_test(const struct eb_test *test)
{
    return test->arg < ARGUMENTS && test->negate <= 1 && test->mask != 0 &&
           (test->value & ~test->mask) == 0;
}

static bool
is_valid(const struct eb_filter_spec *spec)
{
    if (spec->last_nr >= X32_FIRST)
        return false;
    for (size_t i = 0; i < spec->n_tests; i++)
        if (!is_valid_test(&spec->tests[i]))
            return false;
    for (size_t i = 0; i < spec->n_clauses; i++)
        if (!fits(spec->clauses[i].first_test, spec->clauses[i].n_tests, spec->n_tests))
            return false;
    for (size_t i = 0; i < spec->n_rules; i++) {
        const struct eb_rule *rule = &spec->rules[i];
        if (rule->nr > spec->last_nr || (i > 0 && rule->nr <= rule[-1].nr))
            return false;
        if (!fits(rule->first_clause, rule->n_clauses, spec->n_clauses))
            return false;
    }
    return true;
}

/* ---- instructions ---- */

static size_t
put(struct writer *writer, struct eb_insn insn)
{
    if (writer->at == 0) {
        writer->full = true;
        return 0;
    }
    writer->insns[--writer->at] = insn;
    return writer->at;
}

static struct target
returning(uint32_t action)
{
    return (struct target){.is_return = true, .action = action};
}

static struct target
instruction(size_t at)
{
    return (struct target){.at = at};
}

static bool
is_near(const struct writer *writer, size_t at)
{
    return at - writer->at < REACH;
}

/* An instruction that returns `action`, within reach of the next one written. */
static size_t
near_return(struct writer *writer, uint32_t action)
{
    struct target *known = NULL;
    for (size_t i = 0; i < writer->n_returns; i++)
        if (writer->returns[i].action == action)
            known = &writer->returns[i];
    if (known && is_near(writer, known->at))
        return known->at;
    if (!known && writer->n_returns < MAX_RETURNS)
        known = &writer->returns[writer->n_returns++];
    size_t at = put(writer, (struct eb_insn){.code = BPF_RET | BPF_K, .k = action});
    if (known)
        *known = (struct target){.is_return = true, .action = action, .at = at};
    return at;
}

static size_t
near(struct writer *writer, const struct target *target)
{
    if (target->is_return)
        return near_return(writer, target->action);
    if (is_near(writer, target->at))
        return target->at;
    uint32_t distance = (uint32_t)(target->at - writer->at);
    return put(writer, (struct eb_insn){.code = BPF_JMP | BPF_JA, .k = distance});
}

/* Compares what is in the accumulator with `k`. */
static size_t
put_jump(struct writer *writer, uint16_t test, uint32_t k, struct target yes, struct target no)
{
    size_t yes_at = near(writer, &yes);
    size_t no_at = near(writer, &no);
    if (writer->full)
        return 0;
    return put(writer, (struct eb_insn){.code = (uint16_t)(BPF_JMP | BPF_K | test),
                                        .jt = (uint8_t)(yes_at - writer->at),
                                        .jf = (uint8_t)(no_at - writer->at),
                                        .k = k});
}

static size_t
put_load(struct writer *writer, uint32_t offset)
{
    return put(writer, (struct eb_insn){.code = BPF_LD | BPF_W | BPF_ABS, .k = offset});
}

/* ---- argument rules ---- */

static bool
is_single_bit(uint32_t mask)
{
    return (mask & (mask - 1)) == 0;
}

/* A mask of which all or nothing is asked needs no AND: JSET has its own. */
static bool
is_bit_test(const struct comparison *comparison)
{
    return comparison->value == 0 ||
           (is_single_bit(comparison->mask) && comparison->value == comparison->mask);
}

static bool
needs_and(const struct comparison *comparison)
{
    return comparison->mask != UINT32_MAX && !is_bit_test(comparison);
}

/* The one or two words that a test looks at. */
static size_t
split(const struct eb_test *test, struct comparison words[2])
{
    size_t count = 0;
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t mask = (uint32_t)(test->mask >> (32 * half));
        uint32_t value = (uint32_t)(test->value >> (32 * half));
        if (mask != 0)
            words[count++] = (struct comparison){2U * test->arg + half, mask, value};
    }
    return count;
}

/* The word that is whole in the accumulator after a test, however it ended. */
static uint32_t
word_left_by(const struct eb_test *test)
{
    struct comparison words[2];
    bool whole = split(test, words) == 1 && !needs_and(&words[0]);
    return whole ? words[0].word : NO_WORD;
}

/* The same after a clause that was not true. */
static uint32_t
word_left_by_clause(const struct eb_filter_spec *spec, const struct eb_clause *clause)
{
    uint32_t word = NO_WORD;
    for (uint32_t i = 0; i < clause->n_tests; i++) {
        uint32_t left = word_left_by(&spec->tests[clause->first_test + i]);
        if (left == NO_WORD || (i > 0 && left != word))
            return NO_WORD;
        word = left;
    }
    return word;
}

static struct target
put_comparison(struct writer *writer, const struct comparison *comparison, uint32_t loaded,
               struct target equal, struct target unequal)
{
    size_t at;
    if (!is_bit_test(comparison) || comparison->mask == UINT32_MAX)
        at = put_jump(writer, BPF_JEQ, comparison->value, equal, unequal);
    else if (comparison->value == 0)
        at = put_jump(writer, BPF_JSET, comparison->mask, unequal, equal);
    else
        at = put_jump(writer, BPF_JSET, comparison->mask, equal, unequal);
    if (needs_and(comparison))
        at = put(writer,
                 (struct eb_insn){.code = BPF_ALU | BPF_AND | BPF_K, .k = comparison->mask});
    if (comparison->word != loaded)
        at = put_load(writer, ARGS_OFFSET + 4 * comparison->word);
    return instruction(at);
}

/* One test; `loaded` is the word that is in the accumulator before it. */
static struct target
put_test(struct writer *writer, const struct eb_test *test, uint32_t loaded, struct target yes,
         struct target no)
{
    struct comparison words[2];
    size_t count = split(test, words);
    struct target equal = test->negate ? no : yes;
    struct target unequal = test->negate ? yes : no;
    for (size_t i = count; i-- > 0;)
        equal = put_comparison(writer, &words[i], i == 0 ? loaded : NO_WORD, equal, unequal);
    return equal;
}

static struct target
put_clause(struct writer *writer, const struct eb_clause *clause, uint32_t loaded,
           struct target otherwise)
{
    const struct eb_test *tests = writer->spec->tests + clause->first_test;
    struct target yes = returning(clause->action);
    for (uint32_t i = clause->n_tests; i-- > 0;) {
        uint32_t before = i == 0 ? loaded : word_left_by(&tests[i - 1]);
        yes = put_test(writer, &tests[i], before, yes, otherwise);
    }
    return yes;
}

static struct target
put_rule(struct writer *writer, const struct eb_rule *rule)
{
    const struct eb_clause *clauses = writer->spec->clauses + rule->first_clause;
    struct target next = returning(rule->action);
    for (uint32_t i = rule->n_clauses; i-- > 0;) {
        uint32_t loaded = i == 0 ? NO_WORD : word_left_by_clause(writer->spec, &clauses[i - 1]);
        next = put_clause(writer, &clauses[i], loaded, next);
    }
    return next;
}

/* ---- the tree ---- */

/* Opens a range at `first`, unless it would only continue the last one. */
static void
add_range(struct ranges *ranges, uint32_t first, uint32_t action, const struct eb_rule *rule)
{
    struct range *next = ranges->items + ranges->count;
    if (ranges->count > 0 && !next[-1].rule && !rule && next[-1].action == action)
        return;
    *next = (struct range){first, action, rule};
    ranges->count++;
}

/* The whole of 0..2^32-1 cut into ranges; -E2BIG when they are too many. */
static int
cut(const struct eb_filter_spec *spec, struct ranges *ranges)
{
    uint32_t next = 0;
    ranges->count = 0;
    for (size_t i = 0; i < spec->n_rules; i++) {
        const struct eb_rule *rule = &spec->rules[i];
        if (ranges->count > MAX_RANGES - RANGES_PER_STEP)
            return -E2BIG;
        if (rule->nr > next)
            add_range(ranges, next, spec->default_action, NULL);
        add_range(ranges, rule->nr, rule->action, rule->n_clauses > 0 ? rule : NULL);
        next = rule->nr + 1;
    }
    if (ranges->count > MAX_RANGES - RANGES_PER_STEP)
        return -E2BIG;
    if (next <= spec->last_nr)
        add_range(ranges, next, spec->default_action, NULL);
    add_range(ranges, spec->last_nr + 1, spec->unknown_action, NULL);
    if (spec->arch == AUDIT_ARCH_X86_64) {
        add_range(ranges, X32_FIRST, spec->foreign_action, NULL);
        add_range(ranges, X32_LAST + 1, spec->unknown_action, NULL);
    }
    return 0;
}

/* Depth log2(count): at most 12. */
static struct target
put_tree(struct writer *writer, const struct range *ranges, size_t count)
{
    if (count == 1 && !ranges->rule)
        return returning(ranges->action);
    if (count == 1)
        return put_rule(writer, ranges->rule);
    size_t half = count / 2;
    struct target above = put_tree(writer, ranges + half, count - half);
    struct target below = put_tree(writer, ranges, half);
    return instruction(put_jump(writer, BPF_JGE, ranges[half].first, above, below));
}

static void
put_program(struct writer *writer, const struct ranges *ranges)
{
    struct target root = put_tree(writer, ranges->items, ranges->count);
    /* A load goes on to what follows it, and that has to be the root. */
    if (root.is_return)
        put(writer, (struct eb_insn){.code = BPF_RET | BPF_K, .k = root.action});
    struct target native = instruction(put_load(writer, NR_OFFSET));
    put_jump(writer, BPF_JEQ, writer->spec->arch, native,
             returning(writer->spec->foreign_action));
    put_load(writer, ARCH_OFFSET);
}

int
eb_filter_compile(const struct eb_filter_spec *spec, struct eb_insn *out, size_t cap)
{
    struct ranges ranges;
    if (!is_valid(spec))
        return -EINVAL;
    if (cap > EB_FILTER_MAX)
        cap = EB_FILTER_MAX;
    if (cut(spec, &ranges) < 0)
        return -E2BIG;
    struct writer writer = {.spec = spec, .insns = out, .at = cap};
    put_program(&writer, &ranges);
    if (writer.full)
        return -E2BIG;
    size_t length = cap - writer.at;
    memmove(out, out + writer.at, length * sizeof *out);
    return (int)length;
}
