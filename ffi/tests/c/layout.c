/* The binary interface of version 1: sizes and offsets that never change. */
#include <stddef.h>

#include "pinfold.h"

#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#define AT(type, field, bytes) _Static_assert(offsetof(struct type, field) == (bytes), #type "." #field)

_Static_assert(sizeof(size_t) == 8 && sizeof(void *) == 8, "a 64-bit target");
_Static_assert(sizeof(pinfold_status) == 4 && (pinfold_status)-1 < 0, "status");
_Static_assert(PINFOLD_ABI_VERSION == 1, "a new version: say here what has changed");
_Static_assert(PINFOLD_ENGINE_SIZE == 4096 && PINFOLD_ENGINE_ALIGN == 64, "engine");
_Static_assert(PINFOLD_ENGINE_REGIONS == 64, "regions");
_Static_assert(PINFOLD_REALMODE_SIZE == 256 && PINFOLD_REALMODE_ALIGN == 64, "view");
_Static_assert(PINFOLD_AREAS == 4, "areas");
_Static_assert(PINFOLD_REGISTRY_SIZE == 512 && PINFOLD_REGISTRY_ALIGN == 64, "registry");

SIZE(pinfold_host_ops, 88);
AT(pinfold_host_ops, size, 0);
AT(pinfold_host_ops, ctx, 8);
AT(pinfold_host_ops, page_shift, 16);
AT(pinfold_host_ops, chunk_order, 20);
AT(pinfold_host_ops, pin, 24);
AT(pinfold_host_ops, unpin, 32);
AT(pinfold_host_ops, enter, 40);
AT(pinfold_host_ops, leave, 48);
AT(pinfold_host_ops, pause, 56);
AT(pinfold_host_ops, charge, 64);
AT(pinfold_host_ops, uncharge, 72);
AT(pinfold_host_ops, step, 80);

SIZE(pinfold_pin_part, 56);
AT(pinfold_pin_part, size, 0);
AT(pinfold_pin_part, space, 8);
AT(pinfold_pin_part, start, 16);
AT(pinfold_pin_part, pages, 24);
AT(pinfold_pin_part, access, 32);
AT(pinfold_pin_part, flags, 36);
AT(pinfold_pin_part, holder, 40);
AT(pinfold_pin_part, account, 44);
AT(pinfold_pin_part, revocable, 48);
AT(pinfold_pin_part, reserved, 52);

SIZE(pinfold_run, 40);
AT(pinfold_run, size, 0);
AT(pinfold_run, va, 8);
AT(pinfold_run, pfn, 16);
AT(pinfold_run, pages, 24);
AT(pinfold_run, dirty, 32);
AT(pinfold_run, reserved, 36);

SIZE(pinfold_region_id, 8);
AT(pinfold_region_id, raw, 0);

SIZE(pinfold_region_desc, 72);
AT(pinfold_region_desc, size, 0);
AT(pinfold_region_desc, space, 8);
AT(pinfold_region_desc, start, 16);
AT(pinfold_region_desc, pages, 24);
AT(pinfold_region_desc, access, 32);
AT(pinfold_region_desc, flags, 36);
AT(pinfold_region_desc, holder, 40);
AT(pinfold_region_desc, account, 44);
AT(pinfold_region_desc, revocable, 48);
AT(pinfold_region_desc, reserved, 52);
AT(pinfold_region_desc, table, 56);
AT(pinfold_region_desc, table_words, 64);

SIZE(pinfold_area, 16);
AT(pinfold_area, words, 0);
AT(pinfold_area, count, 8);

SIZE(pinfold_registry_desc, 72);
AT(pinfold_registry_desc, size, 0);
AT(pinfold_registry_desc, space, 8);
AT(pinfold_registry_desc, start, 16);
AT(pinfold_registry_desc, pages, 24);
AT(pinfold_registry_desc, regions, 32);
AT(pinfold_registry_desc, areas, 40);
AT(pinfold_registry_desc, area_count, 48);
AT(pinfold_registry_desc, words, 56);
AT(pinfold_registry_desc, word_count, 64);

SIZE(pinfold_registered, 48);
AT(pinfold_registered, size, 0);
AT(pinfold_registered, region, 8);
AT(pinfold_registered, used, 16);
AT(pinfold_registered, need_table, 24);
AT(pinfold_registered, need_own, 32);
AT(pinfold_registered, with, 40);

SIZE(pinfold_region_info, 72);
AT(pinfold_region_info, size, 0);
AT(pinfold_region_info, region, 8);
AT(pinfold_region_info, start, 16);
AT(pinfold_region_info, pages, 24);
AT(pinfold_region_info, used, 32);
AT(pinfold_region_info, mapped, 40);
AT(pinfold_region_info, hpa, 48);
AT(pinfold_region_info, usable_shift, 56);
AT(pinfold_region_info, is_device, 60);
AT(pinfold_region_info, access, 64);
AT(pinfold_region_info, reserved, 68);

SIZE(pinfold_grace, 8);
AT(pinfold_grace, raw, 0);

/* The numbers of the statuses. */
_Static_assert(PINFOLD_OK == 0 && PINFOLD_ERR_INVALID_ARGUMENT == -1, "status");
_Static_assert(PINFOLD_ERR_NOT_MAPPED == -2 && PINFOLD_ERR_REFUSED == -3, "status");
_Static_assert(PINFOLD_ERR_UNMOVABLE == -4 && PINFOLD_ERR_BUSY == -5, "status");
_Static_assert(PINFOLD_ERR_NO_MEMORY == -6 && PINFOLD_ERR_NO_SPACE == -7, "status");
_Static_assert(PINFOLD_ERR_OVER_LIMIT == -8 && PINFOLD_ERR_OVERFLOW == -9, "status");
_Static_assert(PINFOLD_ERR_INTERRUPTED == -10 && PINFOLD_ERR_CORRUPT == -11, "status");
_Static_assert(PINFOLD_ERR_NOT_FOUND == -12 && PINFOLD_ERR_BAD_HOST == -13, "status");
_Static_assert(PINFOLD_ERR_TOO_HARD == -14, "status");

int main(void)
{
    return 0;
}
