//! Bytes that arrived in pieces of any size, taken in pieces of the right size.

use bytes::{Buf, Bytes, BytesMut};

/// A stream's bytes that have arrived and were not taken yet.
///
/// What lies in one arrived piece is handed on without copying; what straddles two pieces is
/// copied once. Memory grows with what has arrived, never with what a length field announces.
#[derive(Debug, Default)]
pub(crate) struct Inflow {
    /// The beginning of a piece that is being taken and is not whole yet.
    partial: BytesMut,
    /// What follows `partial`.
    ready: Bytes,
}

impl Inflow {
    /// Adds what arrived next.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !self.ready.is_empty() {
            self.partial.extend_from_slice(&self.ready);
        }
        self.ready = piece;
    }

    /// Bytes that have arrived and wait.
    pub(crate) fn len(&self) -> usize {
        self.partial.len() + self.ready.len()
    }

    /// The next `count` bytes in one piece, or `None` until they have all arrived.
    pub(crate) fn take(&mut self, count: usize) -> Option<Bytes> {
        if self.partial.is_empty() {
            return (self.ready.len() >= count).then(|| self.ready.split_to(count));
        }
        if self.len() < count {
            return None;
        }
        if let Some(missing) = count.checked_sub(self.partial.len()) {
            self.partial.extend_from_slice(&self.ready[..missing]);
            self.ready.advance(missing);
        }
        Some(self.partial.split_to(count).freeze())
    }

    /// The next byte.
    pub(crate) fn take_u8(&mut self) -> Option<u8> {
        if self.partial.is_empty() && !self.ready.is_empty() {
            return Some(self.ready.get_u8());
        }
        self.take(1).map(|mut bytes| bytes.get_u8())
    }

    /// The next eight bytes as a big-endian number.
    pub(crate) fn take_u64(&mut self) -> Option<u64> {
        if self.partial.is_empty() && self.ready.len() >= 8 {
            return Some(self.ready.get_u64());
        }
        self.take(8).map(|mut bytes| bytes.get_u64())
    }

    /// Everything that has arrived and was not taken, in one piece.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        self.take(self.len()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_same_bytes() {
        let whole: Vec<u8> = (0..=255).collect();
        for piece in [1, 2, 3, 7, 8, 9, 64, 255, 256] {
            for take in [1, 3, 8, 16, 32] {
                let mut inflow = Inflow::default();
                let mut out = Vec::new();
                for bytes in whole.chunks(piece) {
                    inflow.push(Bytes::copy_from_slice(bytes));
                    while let Some(taken) = inflow.take(take) {
                        assert_eq!(taken.len(), take);
                        out.extend_from_slice(&taken);
                    }
                }
                out.extend_from_slice(&inflow.take_rest());
                assert_eq!(out, whole, "pieces of {piece}, taken by {take}");
            }
        }
    }

    #[test]
    fn what_lies_in_one_piece_is_not_copied() {
        let piece = Bytes::from(vec![7_u8; 100]);
        let at = piece.as_ptr();
        let mut inflow = Inflow::default();
        inflow.push(piece);
        assert_eq!(inflow.take(50).unwrap().as_ptr(), at);
    }
}
