//! Finding the few steps that are to blame.

use super::Script;

/// The script without steps that are not needed for `fails` to hold, which it does for the whole.
pub fn reduced(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut left = script.clone();
    let mut chunk = left.0.len().div_ceil(2);
    while chunk > 0 {
        let before = left.0.len();
        let mut at = 0;
        while at < left.0.len() {
            let end = (at + chunk).min(left.0.len());
            let mut fewer = left.clone();
            fewer.0.drain(at..end);
            if fails(&fewer) { left = fewer } else { at = end }
        }
        // What could not go before may go now.
        chunk = if chunk == 1 && left.0.len() < before { 1 } else { chunk / 2 };
    }
    left
}

#[cfg(test)]
mod tests {
    use super::super::{Deed, Op};
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let steps: Vec<Op> = (0..100).map(|file| Op::Do(Deed::Truncate(file, 0))).collect();
        let needs = |script: &Script, file| script.0.contains(&Op::Do(Deed::Truncate(file, 0)));
        let left = reduced(&Script(steps), |script| needs(script, 17) && needs(script, 80));
        assert_eq!(left.0, [17, 80].map(|file| Op::Do(Deed::Truncate(file, 0))));
    }
}
