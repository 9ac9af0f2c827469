//! Memory in one piece that need not be aligned like a folio.

use pinfold::{Order, PageCount};

use crate::contig::ContigError;
use crate::format::TableFormat;
use crate::layout::FrameRange;
use crate::machine::Machine;
use crate::zones::align_up;

impl<F: TableFormat> Machine<'_, F> {
    /// [`alloc_contig`](Self::alloc_contig) for memory that may begin at any multiple of `align`.
    ///
    /// # Errors
    /// [`ContigError`]: what was in the way of the first place that was tried.
    pub fn alloc_contig_aligned(
        &self,
        area: usize,
        pages: u64,
        align: Order,
    ) -> Result<FrameRange, ContigError> {
        let mut state = self.state();
        let area = *state.zones.cma().get(area).ok_or(ContigError::NoRoom)?;
        let mut start = align_up(area.start, align);
        let mut first_error = None;
        while pages > 0 && pages <= area.end().raw().saturating_sub(start.raw()) {
            let range = FrameRange::new(start, PageCount::new(pages));
            match state.empty(&range) {
                Ok(()) => return Ok(range),
                Err(error) => first_error = first_error.or(Some(error)),
            }
            start = range.start.checked_add(align.pages()).ok_or(ContigError::NoRoom)?;
        }
        Err(first_error.unwrap_or(ContigError::NoRoom))
    }
}
