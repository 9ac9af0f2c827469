//! Row T1: how much memory a pin table takes for each page.

use pinfold::{PageShift, Registry};
use pinfold_benches::regions::{Layout, Registered, lower_half};
use pinfold_benches::rows::Options;

/// What folios there are, and how many bytes a page may take with them.
const FOLIOS: [(&str, u8, f64); 4] =
    [("4 KiB", 12, 8.1), ("64 KiB", 16, 0.6), ("2 MiB", 21, 0.02), ("1 GiB", 30, 0.0001)];

/// T1: tables of 16 GiB in folios that do not continue each other. Whether all goals are met.
pub(crate) fn of_tables(options: &Options) -> bool {
    if !options.wants("T1") {
        return true;
    }
    let mut met = true;
    for (name, shift, goal) in FOLIOS {
        let folio = PageShift::new(shift).expect("below 64");
        let layout = Layout { folio, ..Layout::whole(16, 1) };
        let words = Registered::new(layout).table_words();
        let bytes = (words * size_of::<u64>()) as f64 / layout.pages as f64;
        println!(
            "T1   bytes of a pin table for each page, folios of {name}: {bytes:.6}; goal: at most {goal}"
        );
        met &= bytes <= goal;
    }
    let words = |regions| Registry::words_for(&lower_half(), regions).expect("a size");
    let (fixed, each) = (8 * words(0), 8 * (words(1) - words(0)));
    println!("T1   bytes of a registry for 128 TiB: {fixed}, and at most {each} a region");
    met
}
