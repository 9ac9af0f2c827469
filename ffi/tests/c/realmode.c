/* Reads where nothing may be called: through the registry's view, and through one at other addresses. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "registry.h"

static struct world world;
static _Alignas(PINFOLD_REALMODE_ALIGN) unsigned char elsewhere_memory[PINFOLD_REALMODE_SIZE];
static struct arena *arena, *elsewhere;

/* One piece of memory at two addresses. */
static void map(void)
{
    int memory = memfd_create("arena", 0);
    CHECK(memory >= 0 && ftruncate(memory, sizeof *arena) == 0);
    arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    elsewhere = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    CHECK(arena != MAP_FAILED && elsewhere != MAP_FAILED && arena != elsewhere);
    close(memory);
}

static void check_region(const struct pinfold_realmode *view, struct pinfold_region_id id,
                         uint64_t page, uint64_t pages)
{
    const uint64_t first = START + page * PAGE, end = first + pages * PAGE;
    struct pinfold_region_id found;
    uint64_t hpa = 0;

    for (uint64_t i = page; i < page + pages; i++) {
        found.raw = 0;
        CHECK_STATUS(pinfold_realmode_lookup(view, START + i * PAGE + 5, 8, &found), PINFOLD_OK);
        CHECK(found.raw == id.raw);
        CHECK_STATUS(pinfold_realmode_translate(view, id, START + i * PAGE + 5, 12, &hpa),
                     PINFOLD_OK);
        CHECK(hpa == frame_of(i) * PAGE + 5);
    }
    CHECK_STATUS(pinfold_realmode_lookup(view, first, end - first, &found), PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_lookup(view, end - 1, 1, &found), PINFOLD_OK);
    found.raw = hpa = 42;
    CHECK_STATUS(pinfold_realmode_lookup(view, first, end - first + 1, &found),
                 PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_lookup(view, first - 1, 2, &found), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_lookup(view, end, 1, &found), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_lookup(view, first, 0, &found), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_lookup(view, first, UINT64_MAX, &found), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_lookup(view, UINT64_MAX, 1, &found), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_translate(view, id, first - 1, 12, &hpa), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_translate(view, id, end, 12, &hpa), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_translate(view, id, first, 13, &hpa), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_translate(view, id, first, 63, &hpa), PINFOLD_ERR_TOO_HARD);
    CHECK(found.raw == 42 && hpa == 42);
}

static void check_gone(const struct pinfold_realmode *view, struct pinfold_region_id id,
                       uint64_t page)
{
    const uint64_t va = START + page * PAGE;
    uint64_t hpa = 42;

    CHECK_STATUS(pinfold_realmode_translate(view, id, va, 12, &hpa), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_map_get(view, id), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_map_put(view, id), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_mark_dirty(view, id, va), PINFOLD_ERR_TOO_HARD);
    CHECK(hpa == 42);
}

static uint64_t mapped(struct pinfold_region_id id)
{
    struct pinfold_region_info info = {.size = sizeof info};
    CHECK_STATUS(pinfold_registry_info(world.registry, id, &info), PINFOLD_OK);
    return info.mapped;
}

/* Runs that the host never splits, and even ones are, carry IOMMU pages as large. */
static void large_pages(void)
{
    struct pinfold_region_desc desc = region(RUN * 2, RUN, arena->tables[0], 64);
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_region_info info = {.size = sizeof info};
    uint64_t hpa = 0;

    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_info(world.registry, said.region, &info), PINFOLD_OK);
    CHECK(info.usable_shift == 12 + RUN_ORDER);
    const uint64_t va = desc.start + PAGE + 5;
    CHECK_STATUS(pinfold_realmode_translate(world.view, said.region, va, 12 + RUN_ORDER, &hpa),
                 PINFOLD_OK);
    CHECK(hpa == frame_of(RUN * 2 + 1) * PAGE + 5);
    CHECK_STATUS(pinfold_realmode_translate(world.view, said.region, va, 13 + RUN_ORDER, &hpa),
                 PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK(reclaim(&world).times == 1);
}

static const struct pinfold_realmode *open_elsewhere(void)
{
    const struct pinfold_area areas[] = {
        {(uint64_t *)elsewhere, sizeof *elsewhere / 8}, {(uint64_t *)&world, sizeof world / 8},
    };
    const struct pinfold_realmode *view = NULL;

    CHECK_STATUS(pinfold_realmode_open(elsewhere_memory, sizeof elsewhere_memory, areas, 2,
                                       elsewhere->own, OWN, &view), PINFOLD_OK);
    CHECK((const void *)view == (const void *)elsewhere_memory);
    return view;
}

int main(void)
{
    struct pinfold_registered said = {.size = sizeof said}, other = {.size = sizeof other};
    struct pinfold_region_desc desc;

    CHECK(pinfold_realmode_size() == PINFOLD_REALMODE_SIZE);
    CHECK(pinfold_realmode_align() == PINFOLD_REALMODE_ALIGN);
    map();
    begin(&world, arena);
    const struct pinfold_realmode *const views[] = {world.view, open_elsewhere()};
    for (int i = 0; i < 2; i++)
        check_gone(views[i], (struct pinfold_region_id){UINT64_C(1) << 32}, 0);

    large_pages();

    /* Registered at one address, seen at both. */
    desc = region(6, 700, arena->tables[0], TABLE);
    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
    desc = region(707, 1, arena->tables[1], TABLE);
    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &other), PINFOLD_OK);
    for (int i = 0; i < 2; i++) {
        check_region(views[i], said.region, 6, 700);
        check_region(views[i], other.region, 707, 1);
    }

    /* While it is mapped it stays. A reference is one count, whoever takes or gives it. */
    CHECK_STATUS(pinfold_realmode_map_put(views[0], said.region), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_mark_dirty(views[0], said.region, START + 6 * PAGE),
                 PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_map_get(views[0], said.region), PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_map_get(views[1], said.region), PINFOLD_OK);
    CHECK(mapped(said.region) == 2 && mapped(other.region) == 0);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL),
                 PINFOLD_ERR_BUSY);
    CHECK_STATUS(pinfold_realmode_map_put(views[1], said.region), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL),
                 PINFOLD_ERR_BUSY);
    CHECK(world.host.pinned == 701);
    check_region(views[0], said.region, 6, 700);

    /* What is marked becomes dirty, with its run at most. */
    CHECK_STATUS(pinfold_realmode_mark_dirty(views[1], said.region, START + 101 * PAGE + 5),
                 PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_mark_dirty(views[0], said.region, START + 706 * PAGE),
                 PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_realmode_map_put(views[1], said.region), PINFOLD_OK);
    CHECK_STATUS(pinfold_realmode_map_put(views[1], said.region), PINFOLD_ERR_TOO_HARD);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, PINFOLD_DIRTY_MARKED,
                                             NULL), PINFOLD_OK);
    for (int i = 0; i < MEMORY_PAGES; i++)
        CHECK(world.host.dirty[i] == (i / RUN == 101 / RUN));
    for (int i = 0; i < 2; i++) {
        check_gone(views[i], said.region, 6);
        check_region(views[i], other.region, 707, 1);
    }

    /* Its record serves another; the old name still means nothing. */
    CHECK(reclaim(&world).words == arena->tables[0]);
    const struct pinfold_region_id old = said.region;
    desc = region(6, 700, arena->tables[2], TABLE);
    CHECK_STATUS(pinfold_registry_register(world.registry, &desc, &said), PINFOLD_OK);
    for (int i = 0; i < 2; i++) {
        check_gone(views[i], old, 6);
        check_region(views[i], said.region, 6, 700);
    }
    CHECK_STATUS(pinfold_registry_unregister(world.registry, said.region, 0, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_registry_unregister(world.registry, other.region, 0, NULL), PINFOLD_OK);
    CHECK(reclaim(&world).times == 2);
    end(&world);
    return 0;
}
