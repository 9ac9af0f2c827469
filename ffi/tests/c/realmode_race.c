/*
 * Real-mode readers against registration: while one thread registers, unregisters and reclaims, others
 * find regions by address and map them. What is mapped stays pinned, and its addresses stay right.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "registry.h"

#define READERS 2
#define ROUNDS 5000
#define PAGES 40
/* Each round has frames of its own, so that an address tells whose it is. */
#define FRAMES UINT64_C(0x1000)

static struct world world;
static struct arena arena;
static _Atomic int pinned[ROUNDS];
static _Atomic uint64_t answers;
static _Atomic int done;
/* Odd while the reader is at it: what must change before words are given back. */
static _Atomic uint64_t turns[READERS];

static int32_t pin(void *ctx, const struct pinfold_pin_part *part, struct pinfold_run_sink *sink)
{
    (void)ctx;
    atomic_store(&pinned[part->account], 1);
    return pinfold_run_sink_push(sink, part->start / PAGE + (part->account + 1) * FRAMES,
                                 part->pages);
}

static void unpin(void *ctx, const struct pinfold_run *run)
{
    (void)ctx;
    atomic_store(&pinned[(run->pfn - run->va / PAGE) / FRAMES - 1], 0);
}

/* What one hypercall does: find, hold, translate, mark, let go. */
static void turn(uint64_t page)
{
    const uint64_t va = START + page * PAGE + 8;
    struct pinfold_region_id id = {0};
    uint64_t hpa = 0, again = 0;

    if (pinfold_realmode_lookup(world.view, va, 8, &id) != PINFOLD_OK)
        return;
    pinfold_status status = pinfold_realmode_map_get(world.view, id);
    if (status != PINFOLD_OK) {
        CHECK(status == PINFOLD_ERR_TOO_HARD);
        return;
    }
    CHECK_STATUS(pinfold_realmode_translate(world.view, id, va, 12, &hpa), PINFOLD_OK);
    const uint64_t frames = (hpa - va) / PAGE, round = frames / FRAMES - 1;
    CHECK(hpa > va && frames % FRAMES == 0 && round < ROUNDS);
    CHECK(atomic_load(&pinned[round]) == 1);
    CHECK_STATUS(pinfold_realmode_mark_dirty(world.view, id, va), PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_translate(world.view, id, va, 12, &again), PINFOLD_OK);
    CHECK(again == hpa && atomic_load(&pinned[round]) == 1);
    CHECK_STATUS(pinfold_realmode_map_put(world.view, id), PINFOLD_OK);
    atomic_fetch_add(&answers, 1);
}

static void *reader(void *number)
{
    _Atomic uint64_t *const own = &turns[(uintptr_t)number];

    for (uint64_t page = 0; !atomic_load(&done); page = (page + 3) % (4 * PAGES)) {
        atomic_fetch_add(own, 1);
        turn(page);
        atomic_fetch_add(own, 1);
    }
    return NULL;
}

static void wait_for_readers(void)
{
    for (int i = 0; i < READERS; i++) {
        const uint64_t then = atomic_load(&turns[i]);
        while (then % 2 && atomic_load(&turns[i]) == then)
            sched_yield();
    }
}

/* Whoever still read here would see nonsense. */
static void poison(void *ctx, uint64_t *words, uint64_t count)
{
    ++*(int *)ctx;
    memset(words, 0xa5, count * sizeof *words);
}

int main(void)
{
    struct pinfold_host_ops ops = {
        .size = sizeof ops, .page_shift = 12, .pin = pin, .unpin = unpin,
    };
    struct pinfold_registry_desc what = registry_desc(&world, &arena);
    pthread_t readers[READERS];
    int given = 0;

    CHECK_STATUS(pinfold_engine_init(world.engine_memory, sizeof world.engine_memory, &ops,
                                     &world.engine), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_init(world.memory, sizeof world.memory, world.engine, &what,
                                       &world.registry), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_realmode(world.registry, world.view_memory,
                                           sizeof world.view_memory, &world.view), PINFOLD_OK);
    for (uintptr_t i = 0; i < READERS; i++)
        CHECK(pthread_create(&readers[i], NULL, reader, (void *)i) == 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        /* Other addresses each time, in one of two tables, mostly with the same record. */
        struct pinfold_region_desc desc =
            region(round % 3 * PAGES, PAGES, arena.tables[round % 2], TABLE);
        struct pinfold_registered said = {.size = sizeof said};
        struct pinfold_grace grace;
        pinfold_status status;

        desc.account = round;
        CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
        for (volatile uint32_t wait = 0; wait < round % 512; wait++)
            ;
        while ((status = pinfold_registry_unregister(world.registry, said.region, 0, NULL))
               == PINFOLD_ERR_BUSY)
            sched_yield();
        CHECK(status == PINFOLD_OK && atomic_load(&pinned[round]) == 0);
        CHECK_STATUS(pinfold_registry_retired(world.registry, &grace), PINFOLD_OK);
        wait_for_readers();
        CHECK_STATUS(pinfold_registry_reclaim(world.registry, grace, poison, &given), PINFOLD_OK);
        CHECK(given == (int)round + 1);
    }
    atomic_store(&done, 1);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    /* On one processor the readers may never have met a region. */
    printf("%llu answers\n", (unsigned long long)atomic_load(&answers));
    end(&world);
    (void)begin;
    (void)reclaim;
    return 0;
}
