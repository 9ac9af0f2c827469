/* Every argument of a registry and of a view that is wrong: an error, and nothing has changed. */
#include "registry.h"

static struct world world;
static struct arena arena;

#define INVALID PINFOLD_ERR_INVALID_ARGUMENT

static void *off(const void *pointer, size_t bytes)
{
    return (unsigned char *)pointer + bytes;
}

static void init(void)
{
    struct pinfold_registry *const none = (void *)&world;
    struct pinfold_registry *registry = none;
    struct pinfold_registry_desc good = registry_desc(&world, &arena), desc;
    struct pinfold_area areas[5] = {good.areas[0], {arena.own, 0}, {NULL, 0}};
    struct pinfold_engine *engine = world.engine;
    void *const memory = world.memory;
    const size_t size = sizeof world.memory;

    CHECK_STATUS(pinfold_registry_init(NULL, size, engine, &good, &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(off(memory, 8), size, engine, &good, &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size - 1, engine, &good, &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size, NULL, &good, &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size, memory, &good, &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size, engine, NULL, &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size, engine, off(&good, 4), &registry), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size, engine, &good, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_init(memory, size, engine, &good, off(&arena, 4)), INVALID);

#define WRONG(field, value, status)                                            \
    do {                                                                       \
        desc = good;                                                           \
        desc.field = value;                                                    \
        CHECK_STATUS(pinfold_registry_init(memory, size, engine, &desc, &registry), status); \
    } while (0)
    WRONG(size, sizeof desc - 4, INVALID);
    WRONG(start, 1, INVALID);
    WRONG(start, ~(PAGE - 1), INVALID);
    WRONG(pages, 0, INVALID);
    WRONG(pages, UINT64_MAX, INVALID);
    WRONG(pages, UINT64_C(1) << 52, PINFOLD_ERR_NO_SPACE);
    WRONG(regions, UINT64_C(1) << 32, INVALID);
    WRONG(regions, UINT32_MAX, PINFOLD_ERR_NO_SPACE);
    WRONG(areas, NULL, INVALID);
    WRONG(areas, off(areas, 4), INVALID);
    WRONG(area_count, 0, INVALID);
    WRONG(area_count, PINFOLD_AREAS + 1, INVALID);
    WRONG(area_count, UINT64_MAX, INVALID);
    WRONG(words, NULL, INVALID);
    WRONG(words, off(arena.own, 4), INVALID);
    WRONG(word_count, 0, INVALID);
    WRONG(word_count, 100, PINFOLD_ERR_NO_SPACE);
    WRONG(word_count, UINT64_MAX, INVALID);
    WRONG(word_count, sizeof arena / 8 + 1, INVALID);
#define WRONG_AREA(at, first, words)                                           \
    do {                                                                       \
        struct pinfold_area kept = areas[at];                                  \
        areas[at] = (struct pinfold_area){first, words};                       \
        desc = good;                                                           \
        desc.areas = areas;                                                    \
        desc.area_count = 3;                                                   \
        CHECK_STATUS(pinfold_registry_init(memory, size, engine, &desc, &registry), INVALID); \
        areas[at] = kept;                                                      \
    } while (0)
    WRONG_AREA(0, (uint64_t *)&arena + 1, sizeof arena / 8 - 1); /* the words begin in front of it */
    WRONG_AREA(0, arena.own, OWN - 1);                           /* and end behind it */
    WRONG_AREA(2, arena.tables[0], 1);                           /* two overlap */
    WRONG_AREA(2, off(arena.tables[0], 4), 1);
    WRONG_AREA(2, NULL, 1);
    WRONG_AREA(2, (uint64_t *)&world, UINT64_MAX / 8);

    /* Memory that is the library's already. */
    areas[0] = (struct pinfold_area){(uint64_t *)&world, sizeof world / 8};
    desc = good;
    desc.areas = areas;
    desc.pages = 1;
    desc.regions = 1;
    desc.word_count = 20;
    desc.words = (uint64_t *)world.engine_memory + PINFOLD_ENGINE_SIZE / 8 - 1;
    CHECK_STATUS(pinfold_registry_init(memory, size, engine, &desc, &registry), INVALID);
    desc.words = (uint64_t *)world.memory + PINFOLD_REGISTRY_SIZE / 8 - 1;
    CHECK_STATUS(pinfold_registry_init(memory, size, engine, &desc, &registry), INVALID);

    CHECK(registry == none);
    for (size_t i = 0; i < sizeof arena / 8; i++)
        CHECK(((uint64_t *)&arena)[i] == 0);
    for (size_t i = 0; i < size; i++)
        CHECK(world.memory[i] == 0);
}

/* What is no registry is noticed: null, misaligned, never made, or something else. */
static void no_registry(void)
{
    static _Alignas(64) unsigned char nothing[PINFOLD_REGISTRY_SIZE];
    struct pinfold_registry *const wrong[] = {
        NULL, off(world.memory, 8), (void *)nothing, (void *)world.engine_memory,
    };
    struct pinfold_region_desc desc = region(0, 4, arena.tables[0], 100);
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_region_info info = {.size = sizeof info};
    struct pinfold_region_id id = {0};
    struct pinfold_grace grace = {0};
    const struct pinfold_realmode *view = NULL;
    struct freed all = {0};
    uint64_t out = 0;

    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(pinfold_registry_register(wrong[i], &desc, &said), INVALID);
        CHECK_STATUS(pinfold_registry_register_device(wrong[i], 0, 1, 0, &said), INVALID);
        CHECK_STATUS(pinfold_registry_unregister(wrong[i], id, 0, &out), INVALID);
        CHECK_STATUS(pinfold_registry_find(wrong[i], START, 4, &info), INVALID);
        CHECK_STATUS(pinfold_registry_info(wrong[i], id, &info), INVALID);
        CHECK_STATUS(pinfold_registry_device_at(wrong[i], 0, 12, &id, &out), INVALID);
        CHECK_STATUS(pinfold_registry_grow(wrong[i], arena.tables[0], 1), INVALID);
        CHECK_STATUS(pinfold_registry_realmode(wrong[i], world.view_memory,
                                               sizeof world.view_memory, &view), INVALID);
        CHECK_STATUS(pinfold_registry_retired(wrong[i], &grace), INVALID);
        CHECK_STATUS(pinfold_registry_reclaim(wrong[i], grace, freed, &all), INVALID);
        CHECK_STATUS(pinfold_registry_fini(wrong[i]), INVALID);
    }
    CHECK(id.raw == 0 && out == 0 && grace.raw == 0 && view == NULL && all.times == 0);
    CHECK(said.region.raw == 0 && info.region.raw == 0);
}

static void registrations(void)
{
    struct pinfold_registry *registry = world.registry;
    struct pinfold_region_desc good = region(0, 4, arena.tables[0], 100), desc;
    struct pinfold_registered said = {.size = sizeof said};
    uint64_t local[32];

    CHECK_STATUS(pinfold_registry_register(registry, NULL, &said), INVALID);
    CHECK_STATUS(pinfold_registry_register(registry, off(&good, 4), &said), INVALID);
    CHECK_STATUS(pinfold_registry_register(registry, &good, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_register(registry, &good, off(&said, 4)), INVALID);
    said.size = 12;
    CHECK_STATUS(pinfold_registry_register(registry, &good, &said), INVALID);
    said.size = 0;
    CHECK_STATUS(pinfold_registry_register(registry, &good, &said), INVALID);
    said.size = sizeof said;

#define WRONG_REGION(field, value)                                             \
    do {                                                                       \
        desc = good;                                                           \
        desc.field = value;                                                    \
        CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), INVALID); \
    } while (0)
    WRONG_REGION(size, 12);
    WRONG_REGION(space, SPACE + 1);
    WRONG_REGION(start, START + 1);
    WRONG_REGION(start, WINDOW_PAGES * PAGE);
    WRONG_REGION(start, (WINDOW_PAGES - 3) * PAGE);
    WRONG_REGION(pages, 0);
    WRONG_REGION(pages, UINT64_MAX);
    WRONG_REGION(access, 0);
    WRONG_REGION(access, 4);
    WRONG_REGION(flags, 0);
    WRONG_REGION(flags, PINFOLD_PIN_NOFAULT);
    WRONG_REGION(flags, PINFOLD_PIN_LONGTERM | 16);
    WRONG_REGION(revocable, 2);
    WRONG_REGION(reserved, 1);
    WRONG_REGION(table, NULL);
    WRONG_REGION(table, off(arena.tables[0], 4));
    WRONG_REGION(table, local); /* in no area */
    WRONG_REGION(table, arena.tables[TABLES - 1] + TABLE - 99);
    WRONG_REGION(table_words, UINT64_MAX);
    /* What is the library's already. */
    desc = good;
    desc.table_words = 32;
    desc.table = (uint64_t *)(world.engine_memory + PINFOLD_ENGINE_SIZE) - 32;
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), INVALID);
    desc.table = (uint64_t *)(world.memory + PINFOLD_REGISTRY_SIZE) - 1;
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), INVALID);
    desc.table = arena.own + OWN - 1;
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), PINFOLD_ERR_BUSY);
    desc.table = arena.own;
    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), PINFOLD_ERR_BUSY);

    CHECK_STATUS(pinfold_registry_register_device(registry, 1, 1, 0, &said), INVALID);
    CHECK_STATUS(pinfold_registry_register_device(registry, 0, 0, 0, &said), INVALID);
    CHECK_STATUS(pinfold_registry_register_device(registry, 0, 1, 1, &said), INVALID);
    CHECK_STATUS(pinfold_registry_register_device(registry, 0, 2, ~(PAGE - 1), &said), INVALID);
    CHECK_STATUS(pinfold_registry_register_device(registry, WINDOW_PAGES * PAGE, 1, 0, &said),
                 INVALID);
    CHECK_STATUS(pinfold_registry_register_device(registry, 0, 1, 0, NULL), INVALID);
    check_clean(&world.host);
    CHECK(reclaim(&world).times == 0);
}

static void others(void)
{
    struct pinfold_registry *registry = world.registry;
    struct pinfold_region_desc desc = region(0, 4, arena.tables[0], 100);
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_region_info info = {.size = sizeof info};
    struct pinfold_grace grace = {UINT64_MAX};
    struct freed all = {0};
    uint64_t out = 0;

    CHECK_STATUS(pinfold_registry_register(registry, &desc, &said), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 2, &out), INVALID);
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, off(&out, 4)), INVALID);
    CHECK_STATUS(pinfold_registry_find(registry, START, 0, &info), INVALID);
    CHECK_STATUS(pinfold_registry_find(registry, START + 1, 4, &info), INVALID);
    CHECK_STATUS(pinfold_registry_find(registry, START, 4, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_info(registry, said.region, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_info(registry, said.region, off(&info, 4)), INVALID);
    CHECK_STATUS(pinfold_registry_device_at(registry, 0, 12, NULL, &out), INVALID);
    CHECK_STATUS(pinfold_registry_device_at(registry, 0, 12, &said.region, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_grow(registry, NULL, 1), INVALID);
    CHECK_STATUS(pinfold_registry_grow(registry, off(arena.own, 4), 1), INVALID);
    CHECK_STATUS(pinfold_registry_grow(registry, arena.own, 1), INVALID);
    CHECK_STATUS(pinfold_registry_grow(registry, arena.tables[0], UINT64_MAX), INVALID);
    CHECK_STATUS(pinfold_registry_retired(registry, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_reclaim(registry, grace, NULL, &all), INVALID);
    CHECK(out == 0 && info.region.raw == 0);
    CHECK_STATUS(pinfold_registry_unregister(registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK(reclaim(&world).times == 1);

    CHECK_STATUS(pinfold_registry_words_for(0, 1, 12, 1, NULL), INVALID);
    CHECK_STATUS(pinfold_registry_words_for(1, 1, 12, 1, &out), INVALID);
    CHECK_STATUS(pinfold_registry_words_for(0, 0, 12, 1, &out), INVALID);
    CHECK_STATUS(pinfold_registry_words_for(0, 1, 11, 1, &out), INVALID);
    CHECK_STATUS(pinfold_registry_words_for(0, 1, 12, UINT64_C(1) << 32, &out), INVALID);
    CHECK(out == 0);
}

/* Table memory that somebody wrote over is noticed: nothing is lost, or no more than its entries say. */
static void corrupt(void)
{
    enum { STATE = 2, ROOT = HEADER_WORDS };
    struct pinfold_region_desc desc = region(0, 4, arena.tables[0], 100);
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_region_info info = {.size = sizeof info};
    uint64_t *const table = arena.tables[0], left = 7, hpa = 7;

    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
    for (uint64_t state = 0; state < 4; state++) {
        const uint64_t good = table[STATE];
        if ((good & 0xff) == state)
            continue;
        table[STATE] = (good & ~UINT64_C(0xff)) | state;
        CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, &left),
                     PINFOLD_ERR_CORRUPT);
        table[STATE] = good;
        CHECK_STATUS(pinfold_registry_info(world.registry, said.region, &info), PINFOLD_OK);
        CHECK(info.used == 1 && info.mapped == 0 && world.host.pinned == 4);
    }
    table[ROOT] = 0;
    CHECK_STATUS(pinfold_realmode_translate(world.view, said.region, START, 12, &hpa),
                 PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, &left),
                 PINFOLD_ERR_CORRUPT);
    CHECK(left == 7 && hpa == 7);
    CHECK_STATUS(pinfold_registry_info(world.registry, said.region, &info), PINFOLD_ERR_NOT_FOUND);
    CHECK(reclaim(&world).words == table);
    /* The one page whose entry is gone is lost; the host knows of it. */
    CHECK(world.host.pinned == 1 && world.host.pins[0] == 1);
    uncount(&world.host, frame_of(0), 1);
    check_clean(&world.host);
}

static void views(void)
{
    static _Alignas(64) unsigned char nothing[PINFOLD_REALMODE_SIZE];
    const struct pinfold_realmode *const wrong[] = {
        NULL, off(world.view_memory, 8), (void *)nothing, (void *)world.memory,
    };
    const struct pinfold_realmode *const good = world.view, *view = NULL;
    struct pinfold_area area = {(uint64_t *)&arena, sizeof arena / 8};
    struct pinfold_region_id id = {0};
    void *const memory = world.view_memory;
    const size_t size = sizeof world.view_memory;
    uint64_t out = 0;

    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(pinfold_realmode_lookup(wrong[i], START, 1, &id), INVALID);
        CHECK_STATUS(pinfold_realmode_translate(wrong[i], id, START, 12, &out), INVALID);
        CHECK_STATUS(pinfold_realmode_map_get(wrong[i], id), INVALID);
        CHECK_STATUS(pinfold_realmode_map_put(wrong[i], id), INVALID);
        CHECK_STATUS(pinfold_realmode_mark_dirty(wrong[i], id, START), INVALID);
    }
    CHECK_STATUS(pinfold_realmode_lookup(good, START, 1, NULL), INVALID);
    CHECK_STATUS(pinfold_realmode_lookup(good, START, 1, off(&id, 4)), INVALID);
    CHECK_STATUS(pinfold_realmode_translate(good, id, START, 12, NULL), INVALID);
    CHECK_STATUS(pinfold_realmode_translate(good, id, START, 12, off(&out, 4)), INVALID);
    CHECK_STATUS(pinfold_realmode_translate(good, id, START, 64, &out), INVALID);
    CHECK_STATUS(pinfold_realmode_translate(good, id, START, 0x10c, &out), INVALID);
    CHECK(id.raw == 0 && out == 0);

    CHECK_STATUS(pinfold_registry_realmode(world.registry, NULL, size, &view), INVALID);
    CHECK_STATUS(pinfold_registry_realmode(world.registry, off(memory, 8), size, &view), INVALID);
    CHECK_STATUS(pinfold_registry_realmode(world.registry, memory, size - 1, &view), INVALID);
    CHECK_STATUS(pinfold_registry_realmode(world.registry, memory, size, NULL), INVALID);
    CHECK_STATUS(pinfold_realmode_open(NULL, size, &area, 1, arena.own, OWN, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, 8, &area, 1, arena.own, OWN, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, NULL, 1, arena.own, OWN, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 5, arena.own, OWN, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 0, arena.own, OWN, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 1, NULL, OWN, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 1, arena.own, 0, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 1, &out, 1, &view), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 1, arena.own, OWN, NULL), INVALID);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 1, arena.tables[1], 99, &view),
                 PINFOLD_ERR_CORRUPT);
    CHECK_STATUS(pinfold_realmode_open(memory, size, &area, 1, arena.own + 1, OWN - 1, &view),
                 PINFOLD_ERR_CORRUPT);
    CHECK(view == NULL);
    /* The view that stands there still works. */
    CHECK_STATUS(pinfold_realmode_lookup(good, START, 1, &id), PINFOLD_ERR_TOO_HARD);
}

int main(void)
{
    struct pinfold_host_ops ops = host_ops(&world.host);

    CHECK_STATUS(pinfold_engine_init(world.engine_memory, sizeof world.engine_memory, &ops,
                                     &world.engine), PINFOLD_OK);
    init();
    CHECK_STATUS(pinfold_engine_fini(world.engine), PINFOLD_OK);
    begin(&world, &arena);
    no_registry();
    registrations();
    others();
    corrupt();
    views();
    end(&world);
    return 0;
}
