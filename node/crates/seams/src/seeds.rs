//! The seeds of a test: the same ones every time, or others for those who look for more.

use std::iter::FusedIterator;
use std::ops::Range;

/// The seeds that a test goes through: the usual ones, or as many from `QUORATE_SEED_FIRST` on;
/// `QUORATE_SEEDS` asks for another number of them.
///
/// A test that wants to have seen something in all of them together asks for it when
/// [`Seeds::left`] says that they are at least as many as usual.
/// One that panics in the middle of `for seed in seeds(0..30)` says which seed it was.
///
/// # Panics
///
/// One of the variables is set and is not a number.
pub fn seeds(usual: Range<u64>) -> Seeds {
    let rest = chosen(usual, number("QUORATE_SEED_FIRST"), number("QUORATE_SEEDS"));
    Seeds { rest, now: None }
}

/// What [`seeds`] gives.
#[derive(Debug)]
pub struct Seeds {
    rest: Range<u64>,
    now: Option<u64>,
}

impl Seeds {
    /// How many are still to come.
    pub fn left(&self) -> u64 {
        self.rest.end - self.rest.start
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.now = self.rest.next();
        self.now
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl FusedIterator for Seeds {}

impl Drop for Seeds {
    fn drop(&mut self) {
        if let Some(seed) = self.now.filter(|_| std::thread::panicking()) {
            eprintln!(
                "it was seed {seed}; this one alone: QUORATE_SEED_FIRST={seed} QUORATE_SEEDS=1"
            );
        }
    }
}

fn chosen(usual: Range<u64>, first: Option<u64>, count: Option<u64>) -> Range<u64> {
    let count = count.unwrap_or(usual.end - usual.start);
    let first = first.unwrap_or(usual.start);
    first..first.saturating_add(count)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_seeds_are_taken_when_nobody_asks_for_others() {
        assert_eq!(chosen(1..13, None, None), 1..13);
        assert_eq!(chosen(1..13, None, Some(3)), 1..4);
        assert_eq!(chosen(1..13, Some(77), Some(1)), 77..78);
    }

    #[test]
    fn another_first_seed_gives_as_many_and_all_of_them_new() {
        let usual = 0..30;
        let one = chosen(usual.clone(), Some(1_000_000), None);
        let other = chosen(usual.clone(), Some(1_000_030), None);
        for seeds in [&one, &other] {
            assert_eq!(seeds.end - seeds.start, 30);
            assert!(seeds.clone().all(|seed| !usual.contains(&seed)));
        }
        assert!(one.clone().all(|seed| !other.contains(&seed)));
    }
}
