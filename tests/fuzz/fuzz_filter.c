/* fuzz_filter.c - the compiler of filters against any description.
 *
 * The input is made into a description, mostly a sound one.  What comes of it must
 * be what the description says: refused when it contradicts itself, and otherwise a
 * program that the kernel accepts and that answers each call as an evaluation of
 * the description in the plainest way does. */
#include "bpf.h"
#include "evalbox.h"
#include "fuzz.h"

#include <errno.h>
#include <linux/audit.h>

enum {
    FEW_RULES = 24,
    MOST_RULES = 5000,
    MOST_CLAUSES = 700,
    MOST_TESTS = 900,
    CALLS = 96,
    ARGS = 6
};
/* In what a description may be odd, and how large it and its program may be. */
enum {
    ODD_RULES = 1,
    ODD_CLAUSES = 2,
    ODD_TESTS = 4,
    ODD_HEAD = 8,
    ODD_ORDER = 16,
    ODD = 31,
    MANY = 32,
    SMALL_CAP = 64,
};

static const uint64_t words[] = {
    0,
    1,
    2,
    0xf,
    0xfff,
    0x7e020000,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x1ffffffff,
    0xffffffff00000000,
    0x8000000000000000,
    0xffffffffffffffff,
};
enum { N_WORDS = sizeof words / sizeof *words };

/* ---- a description made of the input ---- */

struct described {
    struct eb_filter_spec spec;
    struct eb_rule *rules;
    struct eb_clause *clauses;
    struct eb_test *tests;
};

static uint64_t
take_word(struct source *source)
{
    uint8_t pick = take_byte(source);
    if (pick < 64)
        return words[pick % N_WORDS];
    if (pick < 128)
        return 1ULL << (pick % 64);
    if (pick < 192)
        return take_byte(source);
    return take_bytes(source, 8);
}

static uint32_t
take_action(struct source *source)
{
    static const uint32_t actions[] = {SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS,
                                       SECCOMP_RET_ERRNO | 1, SECCOMP_RET_ERRNO | 38,
                                       SECCOMP_RET_USER_NOTIF};
    uint8_t pick = take_byte(source);
    if (pick < 200)
        return actions[pick % 5];
    /* More different ones than the compiler remembers. */
    return SECCOMP_RET_ERRNO | pick;
}

static void
make_tests(struct described *made, struct source *source, uint8_t odd)
{
    for (size_t i = 0; i < made->spec.n_tests; i++) {
        struct eb_test *test = &made->tests[i];
        uint8_t kind = take_byte(source);
        /* Mostly of two arguments: what one test leaves the next one may use. */
        test->arg = kind >> 4;
        if (!(odd & ODD_TESTS) && test->arg >= ARGS)
            test->arg %= 2;
        test->negate = odd & ODD_TESTS ? kind & 3 : kind & 1;
        test->mask = kind & 2 ? take_word(source) : kind & 4 ? UINT32_MAX : UINT64_MAX;
        test->value = take_word(source);
        if (odd & ODD_TESTS)
            continue;
        test->mask += test->mask == 0;
        test->value &= test->mask;
    }
}

/* Consecutive pieces of what is referred to, as Python makes them, or any. */
static void
take_piece(struct source *source, int odd, uint32_t *first, uint32_t *count, size_t total,
           uint32_t most)
{
    uint32_t end = *first + *count;
    *first = odd ? take_below(source, (uint32_t)total + 2) : end;
    *count = take_below(source, most);
    if (odd && *count == most - 1)
        *count = UINT32_MAX - take_byte(source);
    if (!odd && *count > total - *first)
        *count = (uint32_t)(total - *first);
}

static void
make_clauses(struct described *made, struct source *source, uint8_t odd)
{
    uint32_t first = 0, count = 0;
    for (size_t i = 0; i < made->spec.n_clauses; i++) {
        take_piece(source, odd & ODD_CLAUSES, &first, &count, made->spec.n_tests, 5);
        made->clauses[i] = (struct eb_clause){take_action(source), first, count};
    }
}

static void
make_rules(struct described *made, struct source *source, uint8_t odd)
{
    uint32_t first = 0, count = 0, nr = 0;
    for (size_t i = 0; i < made->spec.n_rules; i++) {
        uint8_t step = take_byte(source);
        take_piece(source, odd & ODD_RULES, &first, &count, made->spec.n_clauses, 4);
        /* Neighbours and gaps; rarely not in order. */
        nr += (uint32_t)(i > 0) + (step < 160 ? 0 : step < 250 ? step % 8U : step * 257U);
        if (odd & ODD_ORDER && step >= 200)
            nr = step == 255 ? (uint32_t)take_word(source) : nr - step % 3;
        made->rules[i] = (struct eb_rule){nr, take_action(source), first, count};
    }
}

static void
make_head(struct described *made, struct source *source, uint8_t odd)
{
    struct eb_filter_spec *spec = &made->spec;
    uint32_t top = spec->n_rules > 0 ? made->rules[spec->n_rules - 1].nr : 0;
    uint8_t arch = take_byte(source);
    spec->arch = arch < 160 ? AUDIT_ARCH_X86_64 : AUDIT_ARCH_AARCH64;
    spec->foreign_action = take_action(source);
    spec->default_action = take_action(source);
    spec->unknown_action = take_action(source);
    spec->last_nr = top + take_below(source, 4);
    if (arch % 16 == 0)
        spec->last_nr = 0x3fffffff;
    if (odd & ODD_HEAD) {
        spec->last_nr = (uint32_t)take_word(source);
        spec->arch = (uint32_t)take_word(source);
    }
    spec->rules = made->rules;
    spec->clauses = made->clauses;
    spec->tests = made->tests;
}

static void *
array(size_t count, size_t size)
{
    void *made = calloc(count + (count == 0), size);
    REQUIRE(made);
    return made;
}

static void
describe(struct described *made, struct source *source, uint8_t odd)
{
    struct eb_filter_spec *spec = &made->spec;
    int many = odd & MANY;
    memset(made, 0, sizeof *made);
    spec->n_rules = take_below(source, many ? MOST_RULES : FEW_RULES);
    /* A long program is slow to try: only a long input asks for one. */
    if (spec->n_rules > FEW_RULES + 16 * source->size)
        spec->n_rules %= FEW_RULES + 16 * source->size;
    spec->n_clauses = take_below(source, many ? MOST_CLAUSES : 16);
    spec->n_tests = take_below(source, many ? MOST_TESTS : 24);
    made->rules = array(spec->n_rules, sizeof *made->rules);
    made->clauses = array(spec->n_clauses, sizeof *made->clauses);
    made->tests = array(spec->n_tests, sizeof *made->tests);
    make_tests(made, source, odd);
    make_clauses(made, source, odd);
    make_rules(made, source, odd);
    make_head(made, source, odd);
}

/* ---- what a description means ---- */

static int
is_sound(const struct eb_filter_spec *spec)
{
    int sound = spec->last_nr < 0x40000000;
    for (size_t i = 0; i < spec->n_tests; i++) {
        const struct eb_test *test = &spec->tests[i];
        sound &= test->arg < ARGS && (test->negate == 0 || test->negate == 1);
        sound &= test->mask != 0 && (test->value | test->mask) == test->mask;
    }
    for (size_t i = 0; i < spec->n_clauses; i++)
        sound &= (uint64_t)spec->clauses[i].first_test + spec->clauses[i].n_tests <=
                 spec->n_tests;
    for (size_t i = 0; i < spec->n_rules; i++) {
        const struct eb_rule *rule = &spec->rules[i];
        sound &= rule->nr <= spec->last_nr;
        sound &= i == 0 || rule->nr > spec->rules[i - 1].nr;
        sound &= (uint64_t)rule->first_clause + rule->n_clauses <= spec->n_clauses;
    }
    return sound;
}

static int
holds(const struct eb_filter_spec *spec, const struct eb_clause *clause, const uint64_t *args)
{
    for (uint32_t i = 0; i < clause->n_tests; i++) {
        const struct eb_test *test = &spec->tests[clause->first_test + i];
        int equal = (args[test->arg] & test->mask) == test->value;
        if (equal == test->negate)
            return 0;
    }
    return 1;
}

static uint32_t
evaluate(const struct eb_filter_spec *spec, const struct seccomp_data *call)
{
    uint32_t nr = (uint32_t)call->nr;
    uint64_t args[ARGS];
    memcpy(args, call->args, sizeof args);
    if (call->arch != spec->arch)
        return spec->foreign_action;
    if (spec->arch == AUDIT_ARCH_X86_64 && nr >= 0x40000000 && nr <= 0x7fffffff)
        return spec->foreign_action;
    if (nr > spec->last_nr)
        return spec->unknown_action;
    for (size_t i = 0; i < spec->n_rules; i++) {
        const struct eb_rule *rule = &spec->rules[i];
        if (rule->nr != nr)
            continue;
        for (uint32_t c = 0; c < rule->n_clauses; c++)
            if (holds(spec, &spec->clauses[rule->first_clause + c], args))
                return spec->clauses[rule->first_clause + c].action;
        return rule->action;
    }
    return spec->default_action;
}

/* ---- calls worth trying ---- */

static uint32_t
take_number(struct source *source, const struct eb_filter_spec *spec)
{
    static const uint32_t edges[] = {0x3fffffff, 0x40000000, 0x7fffffff, 0x80000000,
                                     UINT32_MAX};
    uint8_t pick = take_byte(source);
    if (pick < 160 && spec->n_rules > 0)
        return spec->rules[take_bytes(source, 2) % spec->n_rules].nr;
    if (pick < 200 && spec->n_rules > 0)
        return spec->rules[take_bytes(source, 2) % spec->n_rules].nr + (pick & 1 ? 1U : -1U);
    if (pick < 220)
        return spec->last_nr + pick % 3 - 1;
    if (pick < 240)
        return edges[pick % 5];
    return (uint32_t)take_word(source);
}

/* Makes a test true, or false. */
static void
decide(struct source *source, const struct eb_test *test, int wanted, uint64_t args[ARGS])
{
    uint64_t *arg = &args[test->arg];
    uint64_t bit = test->mask & (0 - test->mask);
    uint8_t pick = take_byte(source);
    if (pick & 1)
        bit = 1ULL << (63 - __builtin_clzll(test->mask));
    *arg = (*arg & ~test->mask) | test->value;
    if (wanted == test->negate)
        *arg ^= bit;
    if (pick & 2)
        *arg ^= ~test->mask & (1ULL << (pick >> 2));
}

/* The arguments with which the rule comes to one of its clauses and through some of
 * its tests, as far as one argument can please several tests. */
static void
take_arguments(struct source *source, const struct eb_filter_spec *spec, uint32_t nr,
               uint64_t args[ARGS])
{
    const struct eb_rule *rule = spec->rules;
    for (int i = 0; i < ARGS; i++)
        args[i] = take_word(source);
    for (size_t i = 0; i < spec->n_rules && rule->nr != nr; i++)
        rule++;
    if (rule == spec->rules + spec->n_rules || rule->n_clauses == 0)
        return;
    uint32_t chosen = take_below(source, rule->n_clauses);
    for (uint32_t c = 0; c <= chosen; c++) {
        const struct eb_clause *clause = &spec->clauses[rule->first_clause + c];
        /* The test at which this one fails; none of them in the chosen one, mostly. */
        uint32_t fails = take_byte(source) % (clause->n_tests + (c == chosen ? 4U : 1U));
        for (uint32_t i = 0; i < clause->n_tests && i <= fails; i++)
            decide(source, &spec->tests[clause->first_test + i], i != fails, args);
    }
}

static void
compare(struct source *source, const struct eb_filter_spec *spec, const struct eb_insn *program,
        size_t length)
{
    int calls = spec->n_rules > FEW_RULES ? CALLS / 8 : CALLS;
    for (int i = 0; i < calls; i++) {
        struct seccomp_data call;
        uint64_t args[ARGS];
        memset(&call, 0, sizeof call);
        call.nr = (int)take_number(source, spec);
        uint8_t foreign = take_byte(source);
        call.arch = foreign < 240 ? spec->arch : (uint32_t)take_word(source);
        take_arguments(source, spec, (uint32_t)call.nr, args);
        memcpy(call.args, args, sizeof args);
        call.instruction_pointer = args[0];
        REQUIRE(interpret(program, length, &call) == evaluate(spec, &call));
    }
}

/* ---- one description ---- */

/* With less room than it needs it is refused, and nothing is written behind. */
static void
check_room(const struct eb_filter_spec *spec, const struct eb_insn *program, size_t length)
{
    struct eb_insn *exact = array(length, sizeof *exact);
    REQUIRE(eb_filter_compile(spec, exact, length) == (int)length);
    REQUIRE(memcmp(exact, program, length * sizeof *exact) == 0);
    free(exact);
    struct eb_insn *less = array(length - 1, sizeof *less);
    REQUIRE(eb_filter_compile(spec, less, length - 1) == -E2BIG);
    free(less);
}

static void
check(struct source *source, const struct eb_filter_spec *spec, uint8_t odd)
{
    size_t cap = odd & SMALL_CAP ? take_bytes(source, 2) % 8192 : EB_FILTER_MAX;
    struct eb_insn *program = array(cap, sizeof *program);
    int length = eb_filter_compile(spec, program, cap);
    REQUIRE((length == -EINVAL) == !is_sound(spec));
    REQUIRE(length > 0 || length == -EINVAL || length == -E2BIG);
    if (length > 0) {
        REQUIRE((size_t)length <= cap && length <= EB_FILTER_MAX);
        require_accepted(program, (size_t)length);
        check_room(spec, program, (size_t)length);
        compare(source, spec, program, (size_t)length);
    }
    free(program);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source source = {.data = data, .size = size};
    struct described made;
    uint8_t odd = take_byte(&source);
    uint8_t rare = take_byte(&source);
    /* Most descriptions are sound, and most are small, which is faster. */
    if (rare % 4 != 0)
        odd &= (uint8_t)~ODD;
    if (rare < 240)
        odd &= (uint8_t)~MANY;
    describe(&made, &source, odd);
    check(&source, &made.spec, odd);
    free(made.rules);
    free(made.clauses);
    free(made.tests);
    return 0;
}
