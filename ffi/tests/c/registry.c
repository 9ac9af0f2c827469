/* The life of registered regions: shared, mapped, device memory, in each other's way, given back. */
#include "registry.h"

static struct world world;
static struct arena arena;

/* A region in full: asked for its need, registered twice, found, ended twice, reclaimed. */
static void shared(void)
{
    struct pinfold_registry *registry = world.registry;
    struct pinfold_region_desc desc = region(6, 1500, NULL, 0);
    struct pinfold_registered said = {.size = sizeof said}, again = {.size = sizeof again};
    struct pinfold_region_info info = {.size = sizeof info};
    struct freed freed;
    uint64_t left = 9;

    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), PINFOLD_ERR_NO_SPACE);
    CHECK(said.need_table > 9 && said.need_own == 0 && said.region.raw == 0 && said.used == 0);
    check_clean(&world.host);
    const uint64_t need = said.need_table;
    for (uint64_t words = 1; words < need; words += 97) {
        desc = region(6, 1500, arena.tables[0], words);
        CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), PINFOLD_ERR_NO_SPACE);
        CHECK(said.need_table == need);
        check_clean(&world.host);
    }
    desc = region(6, 1500, arena.tables[0], need);
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), PINFOLD_OK);
    CHECK(said.region.raw != 0 && said.used == 1 && said.need_table == 0 && said.with.raw == 0);
    CHECK(world.host.pinned == 1500 && world.host.charged == 1500);

    /* Once more, with no table, and with one that is not taken. */
    desc = region(6, 1500, NULL, 0);
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &again), PINFOLD_OK);
    CHECK(again.region.raw == said.region.raw && again.used == 2);
    desc = region(6, 1500, arena.tables[1], TABLE);
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &again), PINFOLD_OK);
    CHECK(again.region.raw == said.region.raw && again.used == 3);
    CHECK(world.host.pinned == 1500 && world.host.charged == 1500);

    CHECK_STATUS(pinfold_registry_find(registry, desc.start, 1500, &info), PINFOLD_OK);
    CHECK(info.size == sizeof info && info.region.raw == said.region.raw);
    CHECK(info.start == desc.start && info.pages == 1500 && info.used == 3 && info.mapped == 0);
    CHECK(info.usable_shift == 12 && info.is_device == 0 && info.hpa == 0);
    CHECK_STATUS(pinfold_registry_find(registry, desc.start, 1499, &info), PINFOLD_ERR_NOT_FOUND);
    CHECK_STATUS(pinfold_registry_find(registry, desc.start + PAGE, 1499, &info),
                 PINFOLD_ERR_NOT_FOUND);

    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, &left), PINFOLD_OK);
    CHECK(left == 2 && world.host.pinned == 1500);
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, PINFOLD_DIRTY_ALL, &left),
                 PINFOLD_OK);
    CHECK(left == 0);
    check_clean(&world.host);
    for (int i = 0; i < MEMORY_PAGES; i++)
        CHECK(world.host.dirty[i] == (i >= 6 && i < 1506));
    left = 9;
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, &left),
                 PINFOLD_ERR_NOT_FOUND);
    CHECK(left == 9);
    CHECK_STATUS(pinfold_registry_info(registry, said.region, &info), PINFOLD_ERR_NOT_FOUND);

    /* The table comes back from reclaim, just as it was given, and not before. */
    CHECK_STATUS(pinfold_registry_fini(registry), PINFOLD_ERR_BUSY);
    desc = region(6, 4, arena.tables[0] + need - 1, 100);
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &again), PINFOLD_ERR_BUSY);
    check_clean(&world.host);
    freed = reclaim(&world);
    CHECK(freed.times == 1 && freed.words == arena.tables[0] && freed.count == need);
    CHECK(reclaim(&world).times == 0);
}

/* What a grace does not cover stays retired. */
static void graces(void)
{
    struct pinfold_region_desc desc = region(0, 8, arena.tables[0], 64);
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_grace early, late;
    struct freed all = {0};

    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_retired(world.registry, &early), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_retired(world.registry, &late), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_reclaim(world.registry, early, freed, &all), PINFOLD_OK);
    CHECK(all.times == 0);
    CHECK_STATUS(pinfold_registry_reclaim(world.registry, late, freed, &all), PINFOLD_OK);
    CHECK(all.times == 1 && all.words == arena.tables[0] && all.count == 64);
}

/* Whatever touches a region without being just that region is refused, before anything is pinned. */
static void overlaps(void)
{
    static const struct {
        uint64_t page, pages;
    } wrong[] = {{99, 2}, {100, 31}, {101, 31}, {100, 33}, {99, 34}, {131, 1}, {110, 1}, {0, 2000}};
    struct pinfold_region_desc desc = region(100, 32, arena.tables[0], TABLE);
    struct pinfold_registered first = {.size = sizeof first}, said = {.size = sizeof said};

    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &first), PINFOLD_OK);
    world.host.calls = 0;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        desc = region(wrong[i].page, wrong[i].pages, arena.tables[1], TABLE);
        CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said),
                     PINFOLD_ERR_INVALID_ARGUMENT);
        CHECK(said.with.raw == first.region.raw && said.region.raw == 0);
    }
    CHECK(world.host.calls == 0);
    CHECK_STATUS(pinfold_registry_register_device(world.registry, START + 100 * PAGE, 32, 0, &said),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK(said.with.raw == first.region.raw);
    /* The neighbours are free. */
    for (uint64_t page = 99; page <= 132; page += 33) {
        desc = region(page, 1, arena.tables[1], TABLE);
        CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
        CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
        CHECK(reclaim(&world).words == arena.tables[1]);
    }
    CHECK_STATUS(pinfold_registry_unregister(world.registry, first.region, 0, NULL), PINFOLD_OK);
    CHECK(reclaim(&world).times == 1);
    check_clean(&world.host);
}

static void device(void)
{
    const uint64_t hpa = UINT64_C(0x800000000000), start = UINT64_C(0x40000000);
    struct pinfold_registry *registry = world.registry;
    struct pinfold_registered said = {.size = sizeof said}, again = {.size = sizeof again};
    struct pinfold_region_info info = {.size = sizeof info};
    struct pinfold_region_id found;
    uint64_t bytes = 0, at = 0;

    world.host.calls = 0;
    CHECK_STATUS(pinfold_registry_register_device(registry, start, 1024, hpa, &said), PINFOLD_OK);
    CHECK(said.used == 1);
    CHECK_STATUS(pinfold_registry_register_device(registry, start, 1024, hpa, &again), PINFOLD_OK);
    CHECK(again.used == 2 && again.region.raw == said.region.raw);
    CHECK_STATUS(pinfold_registry_register_device(registry, start, 1024, hpa + PAGE, &again),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK(again.with.raw == said.region.raw && again.used == 0);
    CHECK_STATUS(pinfold_registry_info(registry, said.region, &info), PINFOLD_OK);
    CHECK(info.is_device == 1 && info.hpa == hpa && info.usable_shift == 22 && info.used == 2);

    CHECK_STATUS(pinfold_registry_device_at(registry, hpa + 0x1234, 16, &found, &bytes), PINFOLD_OK);
    CHECK(found.raw == said.region.raw && bytes == 0x10000 - 0x1234);
    CHECK_STATUS(pinfold_registry_device_at(registry, hpa + 0x3ff010, 30, &found, &bytes),
                 PINFOLD_OK);
    CHECK(bytes == 0xff0);
    bytes = 7;
    CHECK_STATUS(pinfold_registry_device_at(registry, hpa + 0x400000, 12, &found, &bytes),
                 PINFOLD_ERR_NOT_FOUND);
    CHECK_STATUS(pinfold_registry_device_at(registry, hpa - 1, 12, &found, &bytes),
                 PINFOLD_ERR_NOT_FOUND);
    CHECK_STATUS(pinfold_registry_device_at(registry, hpa, 64, &found, &bytes),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK(bytes == 7);

    /* Its translation is a sum, for pages as large as it is aligned; marks are not needed. */
    CHECK_STATUS(pinfold_realmode_translate(world.view, said.region, start + 0x12345, 22, &at),
                 PINFOLD_OK);
    CHECK(at == hpa + 0x12345);
    CHECK_STATUS(pinfold_realmode_translate(world.view, said.region, start, 23, &at),
                 PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_map_get(world.view, said.region), PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_mark_dirty(world.view, said.region, start), PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_map_put(world.view, said.region), PINFOLD_OK);

    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_device_at(registry, hpa, 12, &found, &bytes),
                 PINFOLD_ERR_NOT_FOUND);
    /* It had no table to give back. */
    CHECK(reclaim(&world).times == 0);
    CHECK(world.host.calls == 0);
}

/* The same record over and over: no id comes twice, and no old one works. */
static void stale(void)
{
    const uint64_t made_up[] = {0, 1, 15, 16, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX};
    struct pinfold_region_desc desc = region(0, 8, arena.tables[0], 64);
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_region_info info = {.size = sizeof info};
    struct pinfold_region_id old[64];

    for (size_t i = 0; i < sizeof made_up / sizeof *made_up; i++) {
        struct pinfold_region_id id = {made_up[i]};
        CHECK_STATUS(pinfold_registry_unregister(world.registry, id, 0, NULL),
                     PINFOLD_ERR_NOT_FOUND);
        CHECK_STATUS(pinfold_registry_info(world.registry, id, &info), PINFOLD_ERR_NOT_FOUND);
    }
    for (int i = 0; i < 64; i++) {
        CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
        old[i] = said.region;
        for (int k = 0; k < i; k++) {
            CHECK(old[k].raw != said.region.raw);
            CHECK_STATUS(pinfold_registry_unregister(world.registry, old[k], 0, NULL),
                         PINFOLD_ERR_NOT_FOUND);
            CHECK_STATUS(pinfold_registry_info(world.registry, old[k], &info),
                         PINFOLD_ERR_NOT_FOUND);
        }
        CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
        CHECK(reclaim(&world).times == 1);
    }
}

/* As many regions as there are records, and one more; an older program, whose structures are shorter. */
static void full(void)
{
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_region_id ids[REGIONS];
    struct pinfold_region_info info = {.size = offsetof(struct pinfold_region_info, used)};

    for (uint64_t i = 0; i <= REGIONS; i++) {
        CHECK_STATUS(pinfold_registry_register_device(world.registry, i * PAGE, 1, 0, &said),
                     i < REGIONS ? PINFOLD_OK : PINFOLD_ERR_OVERFLOW);
        if (i < REGIONS)
            ids[i] = said.region;
    }
    info.used = 77;
    CHECK_STATUS(pinfold_registry_info(world.registry, ids[3], &info), PINFOLD_OK);
    CHECK(info.start == 3 * PAGE && info.pages == 1 && info.used == 77);
    for (int i = 0; i < REGIONS; i++)
        CHECK_STATUS(pinfold_registry_unregister(world.registry, ids[i], 0, NULL), PINFOLD_OK);
    /* Records that wait are taken. */
    CHECK_STATUS(pinfold_registry_register_device(world.registry, 0, 1, 0, &said),
                 PINFOLD_ERR_OVERFLOW);
    reclaim(&world);
    CHECK_STATUS(pinfold_registry_register_device(world.registry, 0, 1, 0, &said), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
    reclaim(&world);
}

/* A directory without room for a node says how many words there must be, and can be given them. */
static void grown(void)
{
    struct pinfold_registry_desc desc = registry_desc(&world, &arena);
    struct pinfold_registered first = {.size = sizeof first}, said = {.size = sizeof said};
    uint64_t bound;

    CHECK_STATUS(pinfold_registry_words_for(0, WINDOW_PAGES, 12, REGIONS, &bound), PINFOLD_OK);
    CHECK(bound < OWN);
    CHECK_STATUS(pinfold_registry_words_for(0, WINDOW_PAGES, 12, 0, &desc.word_count), PINFOLD_OK);
    desc.regions = 2;
    desc.word_count += 2 * 8 - 1;
    CHECK_STATUS(pinfold_registry_init(world.memory, sizeof world.memory, world.engine, &desc,
                                       &world.registry), PINFOLD_ERR_NO_SPACE);
    desc.word_count++;
    CHECK_STATUS(pinfold_registry_init(world.memory, sizeof world.memory, world.engine, &desc,
                                       &world.registry), PINFOLD_OK);
    /* Alone in its block; the second shares the block, and takes a node. */
    CHECK_STATUS(pinfold_registry_register_device(world.registry, 0, 1, 0, &first), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_register_device(world.registry, PAGE, 1, 0, &said),
                 PINFOLD_ERR_NO_SPACE);
    CHECK(said.need_own > desc.word_count && said.need_own < OWN && said.need_table == 0);
    uint64_t *const behind = arena.own + desc.word_count, more = said.need_own - desc.word_count;
    CHECK_STATUS(pinfold_registry_grow(world.registry, behind + 1, more),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(pinfold_registry_grow(world.registry, behind, 0), PINFOLD_ERR_INVALID_ARGUMENT);
    /* Where a region has its table there is no room. */
    struct pinfold_region_desc there = region(0, 4, behind + more - 64, 64);
    struct pinfold_registered tabled = {.size = sizeof tabled};
    CHECK_STATUS(pinfold_registry_register(world.registry, &there, &tabled), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_grow(world.registry, behind, more - 63), PINFOLD_ERR_BUSY);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, tabled.region, 0, NULL), PINFOLD_OK);
    CHECK(reclaim(&world).words == there.table);
    CHECK_STATUS(pinfold_registry_grow(world.registry, behind, more - 1), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_register_device(world.registry, PAGE, 1, 0, &said),
                 PINFOLD_ERR_NO_SPACE);
    CHECK_STATUS(pinfold_registry_grow(world.registry, behind + more - 1, 1), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_register_device(world.registry, PAGE, 1, 0, &said), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, first.region, 0, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
    reclaim(&world);
}

int main(void)
{
    CHECK(pinfold_registry_size() == PINFOLD_REGISTRY_SIZE);
    CHECK(pinfold_registry_align() == PINFOLD_REGISTRY_ALIGN);
    begin(&world, &arena);
    CHECK((void *)world.registry == (void *)world.memory);
    CHECK_STATUS(pinfold_engine_fini(world.engine), PINFOLD_ERR_BUSY);
    shared();
    graces();
    overlaps();
    device();
    stale();
    full();
    CHECK(world.host.entered > 0);
    CHECK_STATUS(pinfold_registry_fini(world.registry), PINFOLD_OK);
    grown();
    end(&world);
    return 0;
}
