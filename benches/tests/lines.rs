//! Row M7: a host whose IOMMU does not look into caches is told of every line that was written, and of
//! none twice.

use pinfold::PageShift;
use pinfold_arch::{AmdVi, Granule, IoFormat, Smmu, Tce, Vtd, Zpci};
use pinfold_benches::lines::lines;
use pinfold_benches::mappers::Job;
use pinfold_benches::scene::BASE;

const BYTES: u64 = 16 << 20;

fn check<F: IoFormat>(format: F, job: Job) {
    let [new, old, refused, out] = lines(format, job);
    for (what, lines) in [new, old] {
        let what = format!("{}, {what}: {lines:?}", format.name());
        assert!(lines.all && lines.seen, "{what}");
        assert_eq!(lines.told, lines.changed, "{what}");
    }
    // What was mapped until then has come and gone.
    let (what, lines) = refused;
    assert!(lines.seen && lines.changed == 0, "{}, {what}: {lines:?}", format.name());
    assert!(lines.told <= 2 * old.1.changed, "{}, {what}: {lines:?}", format.name());
    // Tables that were taken out are no IOMMU's any more: what pinfold notes in them nobody is told.
    let (what, lines) = out;
    assert!(lines.all, "{}, {what}: {lines:?}", format.name());
    assert_eq!(lines.told, lines.changed, "{}, {what}: {lines:?}", format.name());
}

#[test]
fn every_line_is_told_of_once() {
    let small = Job::new(BYTES, BASE);
    let group = PageShift::new(16).unwrap();
    let grouped = Job::new(BYTES, group).with_entry(BASE);
    let window = PageShift::new(25).unwrap();
    check(Vtd::new(4, 48).unwrap(), small);
    check(Tce::new(BASE, window, 1).unwrap(), small);
    check(Tce::new(BASE, window, 2).unwrap(), small);
    check(Zpci::new(3).unwrap(), small);
    check(AmdVi::new(4).unwrap(), grouped);
    check(Smmu::stage1(Granule::Size4K, 48, 48).unwrap(), grouped);
}
