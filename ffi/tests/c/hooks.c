/* Hooks that fail, at each call in turn, and hooks that break their contract. */
#include "host.h"

static struct host host;
static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[PINFOLD_ENGINE_SIZE];
static uint64_t table[8192];

static struct pinfold_engine *fresh(struct pinfold_host_ops ops)
{
    struct pinfold_engine *engine;

    memset(&host, 0, sizeof host);
    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &ops, &engine), PINFOLD_OK);
    return engine;
}

/* The n-th hook that can fail does, for every n; whatever fails, all counts come back. */
static void every_call(uint64_t words, uint32_t chunk_order)
{
    struct pinfold_host_ops ops = host_ops(&host);
    struct pinfold_region_desc desc = region(3, 2000, table, words);
    int failures = 0;

    ops.chunk_order = chunk_order;
    for (int n = 1;; n++) {
        struct pinfold_engine *engine = fresh(ops);
        struct pinfold_region_id id = {0};
        host.fail_at = n;
        host.fail_with = PINFOLD_ERR_NO_MEMORY;
        pinfold_status status = pinfold_region_register(engine, &desc, &id, NULL);
        int failed = host.failed;
        if (status == PINFOLD_OK) {
            CHECK(host.pinned == 2000 && host.charged == 2000);
            CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_OK);
        } else {
            CHECK(id.raw == 0);
            CHECK(status == PINFOLD_ERR_NO_SPACE ||
                  (failed && (status == PINFOLD_ERR_NO_MEMORY || status == PINFOLD_ERR_INTERRUPTED ||
                              status == PINFOLD_ERR_OVER_LIMIT)));
            failures++;
        }
        check_clean(&host);
        CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
        if (!failed)
            break;
    }
    CHECK(failures > 5);
}

static void what_the_pin_hook_says(void)
{
    static const struct {
        int32_t says;
        pinfold_status status;
    } rows[] = {
        {PINFOLD_ERR_NOT_MAPPED, PINFOLD_ERR_NOT_MAPPED},
        {PINFOLD_ERR_REFUSED, PINFOLD_ERR_REFUSED},
        {PINFOLD_ERR_UNMOVABLE, PINFOLD_ERR_UNMOVABLE},
        {PINFOLD_ERR_BUSY, PINFOLD_ERR_BUSY},
        {PINFOLD_ERR_NO_MEMORY, PINFOLD_ERR_NO_MEMORY},
        {PINFOLD_ERR_OVER_LIMIT, PINFOLD_ERR_OVER_LIMIT},
        {PINFOLD_ERR_OVERFLOW, PINFOLD_ERR_OVERFLOW},
        {PINFOLD_ERR_INTERRUPTED, PINFOLD_ERR_INTERRUPTED},
        /* Success without pages, and what is not for it to say. */
        {PINFOLD_OK, PINFOLD_ERR_BAD_HOST},
        {PINFOLD_ERR_INVALID_ARGUMENT, PINFOLD_ERR_BAD_HOST},
        {PINFOLD_ERR_NO_SPACE, PINFOLD_ERR_BAD_HOST},
        {PINFOLD_ERR_CORRUPT, PINFOLD_ERR_BAD_HOST},
        {1, PINFOLD_ERR_BAD_HOST},
        {1500, PINFOLD_ERR_BAD_HOST},
        {-15, PINFOLD_ERR_BAD_HOST},
        {INT32_MIN, PINFOLD_ERR_BAD_HOST},
        {INT32_MAX, PINFOLD_ERR_BAD_HOST},
    };
    struct pinfold_region_desc desc = region(3, 2000, table, 8192);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pinfold_engine *engine = fresh(host_ops(&host));
        struct pinfold_region_id id;
        host.misdeed = SAYS;
        host.says = rows[i].says;
        CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), rows[i].status);
        check_clean(&host);
        /* The same, when everything was reported: it is not taken for success. */
        if (rows[i].says != PINFOLD_OK) {
            host.misdeed = SAYS_AFTER;
            CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), rows[i].status);
            check_clean(&host);
        }
        CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    }
}

static void misdeeds(void)
{
    static const enum misdeed all[] = {SHORT, TOO_MANY, WRAPS, TOO_HIGH, NO_PAGES,
                                       NO_FOLIO, NO_ORDER, IGNORES};
    struct pinfold_region_desc desc = region(3, 2000, table, 8192);

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct pinfold_engine *engine = fresh(host_ops(&host));
        struct pinfold_region_id id;
        host.misdeed = all[i];
        CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_ERR_BAD_HOST);
        check_clean(&host);
        /* The engine is none the worse for it. */
        host.misdeed = HONEST;
        CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_OK);
        CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_OK);
        check_clean(&host);
        CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    }
    CHECK_STATUS(pinfold_run_sink_push(NULL, 1, 1), PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(pinfold_run_sink_push((void *)((char *)table + 1), 1, 1),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(pinfold_run_sink_push_indivisible(NULL, 1, 1, 0), PINFOLD_ERR_INVALID_ARGUMENT);
}

/* Hooks may call the library: what they find of a region that is on its way in or out. */
static struct pinfold_engine *outer;
static struct pinfold_region_id leaving;
static int seen;

static int32_t pin_and_look(void *ctx, const struct pinfold_pin_part *part,
                            struct pinfold_run_sink *sink)
{
    CHECK_STATUS(pinfold_engine_fini(outer), PINFOLD_ERR_BUSY);
    /* The table memory of the call that is under way is taken already. */
    struct pinfold_region_desc desc = region(0, 4, table, 64);
    struct pinfold_region_id id = {0};
    CHECK_STATUS(pinfold_region_register(outer, &desc, &id, NULL), PINFOLD_ERR_BUSY);
    /* The id that it will get means nothing yet. */
    for (uint64_t raw = 0; raw < 1024; raw++) {
        uint64_t hpa;
        pinfold_status status =
            pinfold_region_translate(outer, (struct pinfold_region_id){raw}, part->start, &hpa);
        CHECK(status == PINFOLD_ERR_NOT_FOUND || status == PINFOLD_ERR_TOO_HARD);
    }
    seen++;
    return host_pin(ctx, part, sink);
}

static void unpin_and_look(void *ctx, const struct pinfold_run *run)
{
    uint64_t hpa = 5;
    CHECK_STATUS(pinfold_region_translate(outer, leaving, run->va, &hpa), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_region_mark_dirty(outer, leaving, run->va), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_region_unregister(outer, leaving, 0), PINFOLD_ERR_BUSY);
    CHECK_STATUS(pinfold_engine_fini(outer), PINFOLD_ERR_BUSY);
    CHECK(hpa == 5);
    seen++;
    host_unpin(ctx, run);
}

static void from_inside_hooks(void)
{
    struct pinfold_host_ops ops = host_ops(&host);
    struct pinfold_region_desc desc = region(0, 100, table, 8192);

    ops.pin = pin_and_look;
    ops.unpin = unpin_and_look;
    outer = fresh(ops);
    CHECK_STATUS(pinfold_region_register(outer, &desc, &leaving, NULL), PINFOLD_OK);
    CHECK(seen == 1);
    CHECK_STATUS(pinfold_region_unregister(outer, leaving, 0), PINFOLD_OK);
    CHECK(seen > 1);
    check_clean(&host);
    CHECK_STATUS(pinfold_engine_fini(outer), PINFOLD_OK);
}

/* The pauses of a call with parts of 1024 pages in runs of four, by the bound that the host sets. */
static int pauses(uint64_t step)
{
    struct pinfold_host_ops ops = host_ops(&host);
    struct pinfold_region_desc desc = region(0, 2000, table, 8192);
    struct pinfold_region_id id;

    ops.chunk_order = 10;
    ops.step = step;
    struct pinfold_engine *engine = fresh(ops);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_OK);
    int calls = host.calls;
    CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_OK);
    check_clean(&host);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    return calls;
}

static void steps(void)
{
    CHECK(pauses(0) < 10);
    CHECK(pauses(64) > 2000 / 64);
    CHECK(pauses(1) > 2000 / RUN);
}

int main(void)
{
    steps();
    from_inside_hooks();
    every_call(8192, 0);
    every_call(8192, 7);
    /* The table is too small: failures while the need is found out. */
    every_call(20, 0);
    every_call(200, 7);
    every_call(0, 0);
    what_the_pin_hook_says();
    misdeeds();
    return 0;
}
