/*
 * Readers against registration: while one thread registers and unregisters, others translate with
 * ids that may be stale. An answer is right or an error; it is never somebody else's address.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "host.h"

#define READERS 2
#define ROUNDS 20000
#define PAGES 40

static struct host host;
static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[PINFOLD_ENGINE_SIZE];
static uint64_t tables[2][64];
static struct pinfold_engine *engine;
/* Each region has other frames than all others, so that an answer tells whose it is. */
struct entry {
    struct pinfold_region_id id;
    uint64_t shift;
};
static struct entry entries[ROUNDS];
static struct entry *_Atomic newest = &entries[0];
static _Atomic uint64_t answers;
static _Atomic int done;

/* The pin hook of `host.h`, without what is not made for threads: the space says which frames. */
static int32_t pin(void *ctx, const struct pinfold_pin_part *part, struct pinfold_run_sink *sink)
{
    (void)ctx;
    return pinfold_run_sink_push(sink, part->start / PAGE + part->space, part->pages);
}

static void unpin(void *ctx, const struct pinfold_run *run)
{
    (void)ctx;
    (void)run;
}

static void *reader(void *unused)
{
    (void)unused;
    while (!atomic_load(&done)) {
        const struct entry *entry = atomic_load(&newest);
        const struct pinfold_region_id id = entry->id;
        for (uint64_t page = 0; page < 4 * PAGES; page += 3) {
            uint64_t va = START + page * PAGE, hpa = 0;
            pinfold_status status = pinfold_region_translate(engine, id, va, &hpa);
            if (status == PINFOLD_OK) {
                CHECK(hpa == va + entry->shift * PAGE);
                atomic_fetch_add(&answers, 1);
            } else {
                CHECK(hpa == 0);
                CHECK(status == PINFOLD_ERR_NOT_FOUND || status == PINFOLD_ERR_TOO_HARD ||
                      status == PINFOLD_ERR_NOT_MAPPED);
            }
            status = pinfold_region_mark_dirty(engine, id, va);
            CHECK(status == PINFOLD_OK || status == PINFOLD_ERR_NOT_FOUND ||
                  status == PINFOLD_ERR_TOO_HARD || status == PINFOLD_ERR_NOT_MAPPED);
        }
    }
    return NULL;
}

int main(void)
{
    struct pinfold_host_ops ops = {
        .size = sizeof ops, .page_shift = 12, .pin = pin, .unpin = unpin,
    };
    pthread_t readers[READERS];

    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &ops, &engine), PINFOLD_OK);
    for (int i = 0; i < READERS; i++)
        CHECK(pthread_create(&readers[i], NULL, reader, NULL) == 0);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        /* Other addresses each time, in one of two tables, mostly in the same slot. */
        struct pinfold_region_desc desc = region(round % 3 * PAGES, PAGES, tables[round % 2], 64);
        struct entry *entry = &entries[round];
        desc.space = entry->shift = 0x100000 + round * 0x1000;
        CHECK_STATUS(pinfold_region_register(engine, &desc, &entry->id, NULL), PINFOLD_OK);
        atomic_store(&newest, entry);
        for (volatile uint64_t wait = 0; wait < round % 512; wait++)
            ;
        CHECK_STATUS(pinfold_region_unregister(engine, entry->id, 0), PINFOLD_OK);
    }
    atomic_store(&done, 1);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    /* On one processor the readers may never have met a region. */
    printf("%llu answers\n", (unsigned long long)atomic_load(&answers));
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    (void)host;
    (void)host_ops;
    (void)check_clean;
    return 0;
}
