/* The whole life of an engine and its regions, as a lawful user sees it. */
#include "host.h"

static struct host host;
static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[PINFOLD_ENGINE_SIZE];
static uint64_t table[4096], other_table[4096];

static void check_translations(struct pinfold_engine *engine, struct pinfold_region_id id,
                               uint64_t page, uint64_t pages)
{
    uint64_t hpa = 0;

    for (uint64_t i = page; i < page + pages; i++) {
        CHECK_STATUS(pinfold_region_translate(engine, id, START + i * PAGE + 0x123, &hpa),
                     PINFOLD_OK);
        CHECK(hpa == frame_of(i) * PAGE + 0x123);
        CHECK(host.pins[i] > 0);
    }
    hpa = 42;
    CHECK_STATUS(pinfold_region_translate(engine, id, START + page * PAGE - 1, &hpa),
                 PINFOLD_ERR_NOT_MAPPED);
    CHECK_STATUS(pinfold_region_translate(engine, id, START + (page + pages) * PAGE, &hpa),
                 PINFOLD_ERR_NOT_MAPPED);
    CHECK(hpa == 42);
}

int main(void)
{
    struct pinfold_engine *engine = NULL;
    struct pinfold_host_ops ops = host_ops(&host);
    struct pinfold_region_id id, other;
    uint64_t need = 7, bound;

    CHECK(pinfold_version() == PINFOLD_VERSION);
    CHECK(pinfold_engine_size() == PINFOLD_ENGINE_SIZE);
    CHECK(pinfold_engine_align() == PINFOLD_ENGINE_ALIGN);
    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &ops, &engine), PINFOLD_OK);
    CHECK((void *)engine == (void *)memory);
    /* Copied: the engine does not look at it again. */
    memset(&ops, 0xff, sizeof ops);

    /* Ask for the need, with no memory at all; then give just that. */
    struct pinfold_region_desc desc = region(6, 1500, NULL, 0);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, &need), PINFOLD_ERR_NO_SPACE);
    check_clean(&host);
    CHECK_STATUS(pinfold_table_words(desc.start, desc.pages, 12, 12, &bound), PINFOLD_OK);
    CHECK(need > 9 && need < bound && bound < 4096);
    for (uint64_t words = 1; words < need; words += 13) {
        uint64_t again = 0;
        desc = region(6, 1500, table, words);
        CHECK_STATUS(pinfold_region_register(engine, &desc, &id, &again), PINFOLD_ERR_NO_SPACE);
        CHECK(again == need);
        check_clean(&host);
    }
    desc = region(6, 1500, table, need - 1);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_ERR_NO_SPACE);
    desc = region(6, 1500, table, need);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, &need), PINFOLD_OK);
    CHECK(host.pinned == 1500 && host.charged == 1500);
    check_translations(engine, id, 6, 1500);

    /* A second region over the same memory has pins of its own. */
    desc = region(1000, 1000, other_table, 4096);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &other, NULL), PINFOLD_OK);
    CHECK(other.raw != id.raw);
    CHECK(host.pinned == 2500 && host.charged == 2500 && host.pins[1200] == 2);
    check_translations(engine, other, 1000, 1000);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_ERR_BUSY);

    /* Marked pages become dirty, with their run at most, and only those of that region. */
    CHECK_STATUS(pinfold_region_mark_dirty(engine, id, START + 1001 * PAGE + 5), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_mark_dirty(engine, id, START + 5 * PAGE), PINFOLD_ERR_NOT_MAPPED);
    CHECK_STATUS(pinfold_region_unregister(engine, other, PINFOLD_DIRTY_MARKED), PINFOLD_OK);
    CHECK(memchr(host.dirty, 1, sizeof host.dirty) == NULL);
    check_translations(engine, id, 6, 1500);
    CHECK_STATUS(pinfold_region_unregister(engine, id, PINFOLD_DIRTY_MARKED), PINFOLD_OK);
    for (int i = 0; i < MEMORY_PAGES; i++)
        CHECK(host.dirty[i] == (i / RUN == 1001 / RUN));
    check_clean(&host);

    /* The memory can be used again at once; this time all of it is dirty. */
    memset(host.dirty, 0, sizeof host.dirty);
    desc = region(6, 1500, table, 4096);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_unregister(engine, id, PINFOLD_DIRTY_ALL), PINFOLD_OK);
    for (int i = 0; i < MEMORY_PAGES; i++)
        CHECK(host.dirty[i] == (i >= 6 && i < 1506));
    check_clean(&host);

    CHECK(host.entered > 0);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_ERR_INVALID_ARGUMENT);
    return 0;
}
