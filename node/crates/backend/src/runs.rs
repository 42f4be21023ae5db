//! Which pages are free.

use std::collections::BTreeMap;

/// Pages side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Run {
    pub(crate) fn end(self) -> u64 {
        self.start + self.len
    }
}

/// One bit for each page below the high water mark: 32 KiB for each GiB of 4 KiB pages, however
/// scattered the free ones are.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    /// A set that can take pages below `pages` without growing.
    pub(crate) fn with_room(pages: u64) -> PageSet {
        PageSet {
            words: vec![0; pages.div_ceil(64) as usize],
            count: 0,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.words
            .get((page / 64) as usize)
            .is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Adds pages; false (and an unchanged set) if one of them was in it.
    #[must_use]
    pub(crate) fn insert(&mut self, run: Run) -> bool {
        if (run.start..run.end()).any(|page| self.contains(page)) {
            return false;
        }
        let words = run.end().div_ceil(64) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        for page in run.start..run.end() {
            self.words[(page / 64) as usize] |= 1 << (page % 64);
        }
        self.count += run.len;
        true
    }

    pub(crate) fn remove(&mut self, run: Run) {
        for page in run.start..run.end() {
            self.words[(page / 64) as usize] &= !(1 << (page % 64));
        }
        self.count -= run.len;
    }

    /// The lowest `len` pages side by side at or above `from`.
    fn find(&self, from: u64, len: u64) -> Option<Run> {
        let end = self.words.len() as u64 * 64;
        let mut start = from;
        while start < end {
            let word = self.words[(start / 64) as usize] >> (start % 64);
            if word == 0 {
                start = (start / 64 + 1) * 64;
                continue;
            }
            start += u64::from(word.trailing_zeros());
            let mut reached = start + 1;
            while reached < start + len && self.contains(reached) {
                reached += 1;
            }
            if reached == start + len {
                return Some(Run { start, len });
            }
            start = reached + 1;
        }
        None
    }

    /// The pages below `pages` that are not in the set.
    pub(crate) fn complement(&self, from: u64, pages: u64) -> PageSet {
        let mut rest = PageSet::with_room(pages);
        for page in from..pages {
            if !self.contains(page) {
                rest.words[(page / 64) as usize] |= 1 << (page % 64);
                rest.count += 1;
            }
        }
        rest
    }
}

/// Free pages while one transaction takes from them. Nothing is freed meanwhile, so a search for a
/// length never has to look again where the last one for that length (or a shorter) found nothing.
#[derive(Debug)]
pub(crate) struct Allocator<'a> {
    free: &'a mut PageSet,
    high_water: u64,
    searched: BTreeMap<u64, u64>,
    taken: Vec<Run>,
}

impl<'a> Allocator<'a> {
    pub(crate) fn new(free: &'a mut PageSet, high_water: u64) -> Allocator<'a> {
        Allocator {
            free,
            high_water,
            searched: BTreeMap::new(),
            taken: Vec::new(),
        }
    }

    /// The lowest free run of `len` pages; at the high water mark if there is none.
    pub(crate) fn take(&mut self, len: u64) -> Run {
        let from = self
            .searched
            .range(..=len)
            .map(|(_, from)| *from)
            .max()
            .unwrap_or(0);
        let run = match self.free.find(from, len) {
            Some(run) => {
                self.free.remove(run);
                self.searched.insert(len, run.end());
                run
            }
            None => {
                self.searched.insert(len, u64::MAX);
                let run = Run {
                    start: self.high_water,
                    len,
                };
                self.high_water += len;
                run
            }
        };
        match self.taken.last_mut() {
            Some(last) if last.end() == run.start => last.len += len,
            _ => self.taken.push(run),
        }
        run
    }

    /// All that was taken, and the high water mark now.
    pub(crate) fn finish(self) -> (Vec<Run>, u64) {
        (self.taken, self.high_water)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(runs: &[(u64, u64)]) -> PageSet {
        let mut set = PageSet::default();
        for (start, len) in runs {
            assert!(set.insert(Run {
                start: *start,
                len: *len
            }));
        }
        set
    }

    #[test]
    fn the_lowest_run_that_is_long_enough_is_taken() {
        let mut free = set(&[(3, 1), (5, 2), (62, 5), (130, 1)]);
        let mut allocator = Allocator::new(&mut free, 200);
        assert_eq!(allocator.take(3).start, 62);
        assert_eq!(allocator.take(2).start, 5);
        assert_eq!(allocator.take(1).start, 3);
        assert_eq!(allocator.take(2).start, 65);
        assert_eq!(allocator.take(2).start, 200);
        assert_eq!(allocator.take(1).start, 130);
        assert_eq!(allocator.take(1).start, 202);
        let (taken, high_water) = allocator.finish();
        assert_eq!(high_water, 203);
        assert_eq!(taken.iter().map(|run| run.len).sum::<u64>(), 12);
        assert_eq!(free.count(), 0);
    }

    #[test]
    fn a_page_is_in_the_set_once() {
        let mut pages = set(&[(10, 4)]);
        assert!(!pages.insert(Run { start: 13, len: 2 }));
        assert!(!pages.contains(14));
        assert_eq!(pages.count(), 4);
        assert_eq!(pages.complement(2, 16).count(), 10);
    }
}
