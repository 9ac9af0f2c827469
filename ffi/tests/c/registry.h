/* A registry for the tests: an engine over the host of host.h, and memory for words. */
#ifndef REGISTRY_H
#define REGISTRY_H

#include "host.h"

#define WINDOW_PAGES (UINT64_C(1) << 20)
#define REGIONS 16
#define OWN 20000
#define TABLE 4096
#define TABLES 4

struct arena {
    uint64_t own[OWN];
    uint64_t tables[TABLES][TABLE];
};

struct world {
    struct host host;
    _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char engine_memory[PINFOLD_ENGINE_SIZE];
    _Alignas(PINFOLD_REGISTRY_ALIGN) unsigned char memory[PINFOLD_REGISTRY_SIZE];
    _Alignas(PINFOLD_REALMODE_ALIGN) unsigned char view_memory[PINFOLD_REALMODE_SIZE];
    struct pinfold_area areas[2];
    struct pinfold_engine *engine;
    struct pinfold_registry *registry;
    const struct pinfold_realmode *view;
};

/* What reclaim gave back. */
struct freed {
    int times;
    uint64_t *words;
    uint64_t count;
};

static void freed(void *ctx, uint64_t *words, uint64_t count)
{
    struct freed *freed = ctx;
    freed->times++;
    freed->words = words;
    freed->count = count;
}

static struct pinfold_registry_desc registry_desc(struct world *world, struct arena *arena)
{
    /* The view lies within reach too, as it must; and so, by chance, does the rest of the world. */
    world->areas[0] = (struct pinfold_area){(uint64_t *)arena, sizeof *arena / 8};
    world->areas[1] = (struct pinfold_area){(uint64_t *)world, sizeof *world / 8};
    return (struct pinfold_registry_desc){
        .size = sizeof(struct pinfold_registry_desc),
        .space = SPACE,
        .start = 0,
        .pages = WINDOW_PAGES,
        .regions = REGIONS,
        .areas = world->areas,
        .area_count = 2,
        .words = arena->own,
        .word_count = OWN,
    };
}

static void begin(struct world *world, struct arena *arena)
{
    struct pinfold_host_ops ops = host_ops(&world->host);
    struct pinfold_registry_desc desc = registry_desc(world, arena);

    CHECK_STATUS(pinfold_engine_init(world->engine_memory, sizeof world->engine_memory, &ops,
                                     &world->engine), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_init(world->memory, sizeof world->memory, world->engine, &desc,
                                       &world->registry), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_realmode(world->registry, world->view_memory,
                                           sizeof world->view_memory, &world->view), PINFOLD_OK);
    /* Copied. */
    memset(&desc, 0xff, sizeof desc);
    memset(world->areas, 0xff, sizeof world->areas);
}

/* With nobody reading. */
static struct freed reclaim(struct world *world)
{
    struct freed all = {0};
    struct pinfold_grace grace;

    CHECK_STATUS(pinfold_registry_retired(world->registry, &grace), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_reclaim(world->registry, grace, freed, &all), PINFOLD_OK);
    return all;
}

static void end(struct world *world)
{
    CHECK_STATUS(pinfold_registry_fini(world->registry), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_fini(world->registry), PINFOLD_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(pinfold_engine_fini(world->engine), PINFOLD_OK);
    check_clean(&world->host);
}

#endif
