//! Mangled Rust names as a reader knows them.

/// The library, as both mangling schemes spell it.
const LIBRARY: &str = "7pinfold";
/// Its real-mode module.
const REALMODE: &str = "7pinfold8realmode";

/// Whether a symbol is of the Rust module `pinfold::realmode`.
pub(crate) fn is_realmode(symbol: &str) -> bool {
    symbol.contains(REALMODE)
}

/// `pinfold::realmode::RealMode::lookup` for the symbol of that method; other symbols as they are.
pub(crate) fn readable(symbol: &str) -> String {
    let Some(at) = symbol.find(LIBRARY) else { return symbol.to_owned() };
    let words = words(symbol.get(at..).unwrap_or_default());
    if words.is_empty() { symbol.to_owned() } else { words.join("::") }
}

/// The identifiers of a mangled path: each has its length in front. What is between them names
/// namespaces, or refers back (`B`, up to `_`).
fn words(mut rest: &str) -> Vec<&str> {
    let mut words = Vec::new();
    while let Some(first) = rest.chars().next() {
        if matches!(first, 'B' | 's') {
            let Some((_, after)) = rest.split_once('_') else { break };
            rest = after;
            continue;
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            continue;
        }
        let Some(length) = rest.get(..digits).and_then(|text| text.parse::<usize>().ok()) else {
            break;
        };
        // The older scheme ends with a hash.
        let is_hash = length == 17 && rest[digits..].starts_with('h');
        let Some(word) = rest.get(digits..digits + length).filter(|_| !is_hash) else { break };
        words.push(word);
        rest = rest.get(digits + length..).unwrap_or_default();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{is_realmode, readable};

    #[test]
    fn both_schemes() {
        let new = "_RNvMs0_NtCs1a2b_7pinfold8realmodeNtB5_8RealMode6lookup";
        let old = "_ZN7pinfold8realmode8RealMode6lookup17h0123456789abcdefE";
        for symbol in [new, old] {
            assert!(is_realmode(symbol));
            assert_eq!(readable(symbol), "pinfold::realmode::RealMode::lookup");
        }
    }

    #[test]
    fn other_names_stay() {
        assert_eq!(readable("pinfold_realmode_lookup"), "pinfold_realmode_lookup");
        assert!(!is_realmode("_RNvNtCsdRzaAgX9gWa_4core9panicking18panic_bounds_check"));
    }
}
