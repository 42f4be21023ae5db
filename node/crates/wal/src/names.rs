//! Names of segments.

use std::fmt;
use std::path::Path;

use seams::Disk;

use crate::error::Error;

/// `<sequence>-<index>.wal`, both 16 hexadecimal digits: the file's place in the row, and the index
/// of the first entry that it can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentName {
    pub(crate) sequence: u64,
    pub(crate) index: u64,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.sequence, self.index)
    }
}

impl SegmentName {
    pub(crate) fn parse(name: &str) -> Option<SegmentName> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        if sequence.len() != 16 || index.len() != 16 {
            return None;
        }
        let number = |digits: &str| {
            let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            if hexadecimal {
                u64::from_str_radix(digits, 16).ok()
            } else {
                None
            }
        };
        Some(SegmentName {
            sequence: number(sequence)?,
            index: number(index)?,
        })
    }
}

/// All segments of a directory, in order; what is not a segment is passed over.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentName>, Error> {
    let names = disk
        .read_dir(dir)
        .map_err(|source| Error::io("list", dir, source))?;
    let mut names: Vec<SegmentName> = names
        .iter()
        .filter_map(|name| SegmentName::parse(name))
        .collect();
    names.sort_unstable_by_key(|name| name.sequence);
    if names.is_empty() {
        return Err(Error::NotFound {
            dir: dir.to_owned(),
        });
    }
    Ok(names)
}

/// The segments from the one that holds what follows `index`: the last whose name is not beyond it
/// (etcd's rule), which must be consecutive.
pub(crate) fn from_index(
    dir: &Path,
    names: &[SegmentName],
    index: u64,
) -> Result<Vec<SegmentName>, Error> {
    let first = names
        .iter()
        .rposition(|name| name.index <= index)
        .ok_or_else(|| Error::SegmentNotFound {
            dir: dir.to_owned(),
            index,
        })?;
    let names = &names[first..];
    for pair in names.windows(2) {
        if pair[0].sequence.checked_add(1) != Some(pair[1].sequence) {
            return Err(Error::SegmentMissing {
                dir: dir.to_owned(),
                after: pair[0].sequence,
                found: pair[1].sequence,
            });
        }
    }
    Ok(names.to_vec())
}

/// The newest segments that are consecutive. A purge that a power cut half undid can leave older
/// ones before a hole; nobody needs those.
pub(crate) fn consecutive(names: &[SegmentName]) -> &[SegmentName] {
    let hole = names
        .windows(2)
        .rposition(|pair| pair[0].sequence.checked_add(1) != Some(pair[1].sequence));
    &names[hole.map_or(0, |hole| hole + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(sequence: u64, index: u64) -> SegmentName {
        SegmentName { sequence, index }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let written = name(0x1f, 0xa3f1).to_string();
        assert_eq!(written, "000000000000001f-000000000000a3f1.wal");
        assert_eq!(SegmentName::parse(&written), Some(name(0x1f, 0xa3f1)));
        for wrong in [
            "0.tmp",
            "0000000000000000-0000000000000000.wal.broken",
            "000000000000000-00000000000000000.wal",
            "+00000000000000f-0000000000000000.wal",
            "0000000000000000.wal",
            "é00000000000000-0000000000000000.wal",
        ] {
            assert_eq!(SegmentName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_last_segment_not_beyond_the_index_is_chosen() {
        // Segment 2 begins before segment 1: a new leader had replaced entries 98 and 99.
        let names = [name(0, 0), name(1, 100), name(2, 98), name(3, 150)];
        let first = |index| from_index(Path::new("wal"), &names, index).unwrap()[0].sequence;
        assert_eq!(
            [
                first(0),
                first(97),
                first(98),
                first(100),
                first(149),
                first(150)
            ],
            [0, 0, 2, 2, 2, 3]
        );
        assert!(matches!(
            from_index(Path::new("wal"), &names[1..], 97),
            Err(Error::SegmentNotFound { index: 97, .. })
        ));
        let holed = [name(0, 0), name(2, 98)];
        assert!(matches!(
            from_index(Path::new("wal"), &holed, 5),
            Err(Error::SegmentMissing {
                after: 0,
                found: 2,
                ..
            })
        ));
        assert_eq!(consecutive(&holed), &holed[1..]);
        assert_eq!(consecutive(&names), &names);
    }
}
