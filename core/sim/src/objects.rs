//! Files and other memory that several mappings share: page caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::{FaultError, MappingKind, SpaceId};
use pinfold::{AddrRange, Order, PageCount, Pfn, VirtAddr};

use crate::format::TableFormat;
use crate::layout::ZoneKind;
use crate::map::{MapError, MapSpec};
use crate::state::State;
use crate::zones::{Place, Want};

/// Names a file of the machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// Memory without a disk behind it.
    Shmem,
    /// Of a file system that writes back and must hear of every dirtied page.
    Disk,
    /// Mapped straight onto persistent memory.
    FsDax,
    /// Hidden from the kernel itself.
    Secret,
    /// Huge pages of this order from the pool.
    Hugetlb(Order),
}

#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) kind: FileKind,
    /// Length in base pages. Behind it nothing can be touched.
    pub(crate) pages: u64,
    /// The size of folios that it is cached in, where one fits.
    pub(crate) order: Order,
    /// What is cached: the first frame of each folio by its first page.
    pub(crate) cache: BTreeMap<u64, (Pfn, Order)>,
}

/// Somebody still uses memory that a file system wants to take back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TruncateError {
    /// There is no such file.
    #[error("no such file")]
    NoFile,
    /// Memory of an fsdax file is pinned: truncate waits until the device has let go.
    #[error("the folio at frame {folio} has {found} references, expected {expected}")]
    Busy {
        /// Its first frame.
        folio: Pfn,
        /// References of the file alone.
        expected: u32,
        /// References that it has.
        found: u32,
    },
    /// A mapped page had to be split and there was no memory for the table.
    #[error(transparent)]
    NoMemory(#[from] crate::state::NoMemory),
}

impl File {
    pub(crate) fn new(kind: FileKind, pages: u64, order: Order) -> Self {
        let order = match kind {
            FileKind::Hugetlb(order) => order,
            FileKind::Shmem | FileKind::Disk => order,
            FileKind::FsDax | FileKind::Secret => Order::ZERO,
        };
        Self { kind, pages, order, cache: BTreeMap::new() }
    }

    /// Completes what a mapping of this file is.
    pub(crate) fn shape(&self, spec: &mut MapSpec) -> Result<(), MapError> {
        spec.kind = match self.kind {
            FileKind::Shmem => MappingKind::Shmem,
            FileKind::Disk => MappingKind::File,
            FileKind::FsDax => MappingKind::FsDax,
            FileKind::Secret => MappingKind::Secret,
            FileKind::Hugetlb(_) => MappingKind::Hugetlb,
        };
        if let FileKind::Hugetlb(order) = self.kind {
            spec.hugetlb = order;
        }
        spec.dirty_tracked = self.kind == FileKind::Disk;
        let only_shared = matches!(self.kind, FileKind::Secret | FileKind::Hugetlb(_));
        if only_shared && !spec.shared { Err(MapError::Kind) } else { Ok(()) }
    }

    fn folio_kind(&self) -> FolioKind {
        match self.kind {
            FileKind::Shmem => FolioKind::Shmem,
            FileKind::Disk => FolioKind::File,
            FileKind::FsDax => FolioKind::FsDax,
            FileKind::Secret => FolioKind::Secret,
            FileKind::Hugetlb(_) => FolioKind::Hugetlb,
        }
    }

    /// The cached folio that holds a page: its first page, first frame and order.
    pub(crate) fn cached(&self, page: u64) -> Option<(u64, Pfn, Order)> {
        let (start, (head, order)) = self.cache.range(..=page).next_back()?;
        (page - start < order.pages().raw()).then_some((*start, *head, *order))
    }
}

impl<F: TableFormat> State<'_, F> {
    pub(crate) fn add_file(&mut self, kind: FileKind, pages: u64, order: Order) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        self.files.insert(id, File::new(kind, pages, order));
        id
    }

    /// The folio that caches a page of a file, read in where it is not: its first page, first
    /// frame and order.
    pub(crate) fn cache_page(
        &mut self,
        id: FileId,
        page: u64,
        longterm: bool,
    ) -> Result<(u64, Pfn, Order), FaultError> {
        let file = self.files.get(&id).ok_or(FaultError::Denied)?;
        if page >= file.pages {
            return Err(FaultError::Denied);
        }
        if let Some(found) = file.cached(page) {
            return Ok(found);
        }
        let (kind, file_kind) = (file.folio_kind(), file.kind);
        let mut order = file.order;
        let mut start = page & !(order.pages().raw() - 1);
        let end = start + order.pages().raw();
        let hugetlb = matches!(file_kind, FileKind::Hugetlb(_));
        if !hugetlb && (end > file.pages || file.cache.range(start..end).next().is_some()) {
            (order, start) = (Order::ZERO, page);
        }
        let want = match file_kind {
            FileKind::FsDax => Want::In(Place::Zone(ZoneKind::FsDax)),
            FileKind::Secret => Want::Pinnable,
            _ if longterm => Want::Pinnable,
            _ => Want::Movable,
        };
        let head = if hugetlb {
            self.new_huge(order, longterm).map_err(|_| FaultError::NoMemory)?
        } else {
            let flags = FolioFlags::empty();
            match self.new_folio(order, want, kind, flags) {
                Ok(head) => head,
                Err(_) if order > Order::ZERO => {
                    (order, start) = (Order::ZERO, page);
                    self.new_folio(order, want, kind, flags).map_err(|_| FaultError::NoMemory)?
                }
                Err(_) => return Err(FaultError::NoMemory),
            }
        };
        // The reference that it came with is the file's.
        self.files.get_mut(&id).expect("looked up above").cache.insert(start, (head, order));
        self.cached.insert(head, id);
        Ok((start, head, order))
    }

    /// Takes a folio out of a file's cache and drops the file's reference.
    fn uncache(&mut self, id: FileId, start: u64) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if let Some((head, _)) = file.cache.remove(&start) {
            self.cached.remove(&head);
            self.put(head, 1);
        }
    }

    /// Cuts a file, or makes it longer. Mapped pages behind the end are unmapped, private copies
    /// of them too; pinned ones stay with whoever pinned them, cut off from the file.
    pub(crate) fn truncate(&mut self, id: FileId, pages: u64) -> Result<(), TruncateError> {
        let file = self.files.get(&id).ok_or(TruncateError::NoFile)?;
        let old = file.pages;
        let granule = match file.kind {
            FileKind::Hugetlb(order) => order.pages().raw(),
            _ => 1,
        };
        let pages = pages.next_multiple_of(granule);
        if pages < old {
            self.zap_file(id, pages)?;
        }
        let gone: Vec<(u64, Pfn)> = self.files[&id]
            .cache
            .range(pages..)
            .map(|(start, (head, _))| (*start, *head))
            .collect();
        if self.files[&id].kind == FileKind::FsDax {
            for (_, head) in &gone {
                let found = self.folio(*head).map_or(0, |f| self.frames.counts_of(f).references());
                if found != 1 {
                    return Err(TruncateError::Busy { folio: *head, expected: 1, found });
                }
            }
        }
        self.files.get_mut(&id).expect("looked up above").pages = pages;
        for (start, _) in gone {
            self.uncache(id, start);
        }
        // What is left of a folio behind the end reads as zeroes when the file grows again.
        if let Some((start, head, order)) = self.files[&id].cached(pages) {
            for i in pages - start..order.pages().raw() {
                self.ram.clear(Pfn::new(head.raw() + i));
            }
        }
        Ok(())
    }

    /// Where pages of a file from `from` on are mapped.
    pub(crate) fn file_ranges(&self, file: FileId, from: u64) -> Vec<(SpaceId, AddrRange)> {
        let mut ranges = Vec::new();
        for (id, space) in &self.spaces {
            for vma in space.vmas.values().filter(|vma| vma.spec.file == Some(file)) {
                let skip = PageCount::new(from.saturating_sub(vma.spec.offset));
                ranges.extend(vma.range.skip(skip).map(|range| (SpaceId(*id), range)));
            }
        }
        ranges
    }

    /// Unmaps what lies behind page `from` of a file, everywhere.
    fn zap_file(&mut self, file: FileId, from: u64) -> Result<(), TruncateError> {
        for (id, range) in self.file_ranges(file, from) {
            let handle = Arc::clone(&self.spaces[&id.0].handle);
            self.split_at(id, range.start())?;
            handle.invalidate_start();
            self.zap(id, &range);
            handle.invalidate_end();
        }
        Ok(())
    }

    /// Closes a file: its cache goes, and with it what no device holds. Mappings of it stay and
    /// can touch nothing more.
    pub(crate) fn close_file(&mut self, id: FileId) -> Result<(), TruncateError> {
        self.truncate(id, 0)?;
        self.files.remove(&id);
        Ok(())
    }

    /// Drops what caches hold and nobody else refers to, as a kernel does when memory is short:
    /// clean pages of files on disk. Returns how many folios went.
    pub(crate) fn shrink(&mut self) -> u64 {
        let mut dropped = 0;
        let disk: Vec<(FileId, u64, Pfn)> = self
            .files
            .iter()
            .filter(|(_, file)| file.kind == FileKind::Disk)
            .flat_map(|(id, file)| file.cache.iter().map(|(at, (head, _))| (*id, *at, *head)))
            .collect();
        for (id, start, head) in disk {
            let Some(folio) = self.folio(head) else { continue };
            let mapped = self.rmap.get(&head).cloned().unwrap_or_default();
            let dirty = folio.info().flags.contains(FolioFlags::DIRTY);
            let alone = self.frames.counts_of(folio).references() == mapped.len() as u32 + 1;
            if dirty || !alone {
                continue;
            }
            let handles = self.handles(&mapped);
            handles.iter().for_each(|handle| handle.invalidate_start());
            for (space, va) in mapped {
                self.unmap_at(SpaceId(space), va);
            }
            handles.iter().for_each(|handle| handle.invalidate_end());
            // A CPU may have dirtied it through an entry that is gone now, and a device may have
            // come while the entries were still there.
            let Some(folio) = self.folio(head) else { continue };
            if folio.info().flags.contains(FolioFlags::DIRTY) {
                continue;
            }
            if let Ok(frozen) = self.frames.freeze(folio, 1) {
                self.files.get_mut(&id).expect("looked up above").cache.remove(&start);
                self.cached.remove(&head);
                self.free(frozen);
                dropped += 1;
            }
        }
        dropped
    }

    fn unmap_at(&mut self, id: SpaceId, va: VirtAddr) {
        if let Some(spot) = self.spot(id, va) {
            self.unmap_leaf(id, va, &spot);
            self.prune(id, va);
        }
    }
}
