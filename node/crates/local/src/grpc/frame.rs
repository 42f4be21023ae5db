//! gRPC's frames: a flag byte, four bytes of length, the message.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

use super::Error;

/// Flag and length.
const HEAD_BYTES: usize = 5;

/// A message larger than this is no answer of a store with etcd's limits; a length beyond it is damage.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// A message as it goes out: uncompressed, with its head.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are far smaller than 4 GiB"));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// Cuts what arrives into messages.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The only piece, as long as one is enough: no copy then.
    whole: Bytes,
    /// Pieces that were put together.
    joined: BytesMut,
}

impl Messages {
    pub(super) fn push(&mut self, data: Bytes) {
        if self.whole.is_empty() && self.joined.is_empty() {
            self.whole = data;
            return;
        }
        if !self.whole.is_empty() {
            self.joined
                .extend_from_slice(&std::mem::take(&mut self.whole));
        }
        self.joined.extend_from_slice(&data);
    }

    /// The next message that is complete.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let head = if self.joined.is_empty() {
            &self.whole[..]
        } else {
            &self.joined[..]
        };
        let Some((&[flag, a, b, c, d], rest)) = head.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 {
            return Err(Error::Broken(format!(
                "a message with flag {flag}, and no compression was offered"
            )));
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(Error::Broken(format!(
                "a message of {length} bytes, expected at most {MESSAGE_BYTES_MAX}"
            )));
        }
        if rest.len() < length {
            return Ok(None);
        }
        if self.joined.is_empty() {
            self.whole.advance(HEAD_BYTES);
            return Ok(Some(self.whole.split_to(length)));
        }
        self.joined.advance(HEAD_BYTES);
        Ok(Some(self.joined.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::mvccpb::KeyValue;

    #[test]
    fn messages_come_out_whole_wherever_they_were_cut() {
        let messages: Vec<KeyValue> = (0..5_usize)
            .map(|n| KeyValue {
                key: vec![b'k'; n * n * 7].into(),
                version: 3,
                ..Default::default()
            })
            .collect();
        let wire: Vec<u8> = messages.iter().flat_map(framed).collect();
        for step in 1..wire.len() {
            let mut cutter = Messages::default();
            let mut seen = Vec::new();
            for piece in wire.chunks(step) {
                cutter.push(Bytes::copy_from_slice(piece));
                while let Some(message) = cutter.next().expect("sound frames") {
                    seen.push(KeyValue::decode(message).expect("a message"));
                }
            }
            assert_eq!(seen, messages, "cut every {step} bytes");
        }
    }

    #[test]
    fn a_compressed_or_endless_message_is_an_error() {
        for bytes in [&[1_u8, 0, 0, 0, 0][..], &[0, 255, 255, 255, 255]] {
            let mut cutter = Messages::default();
            cutter.push(Bytes::copy_from_slice(bytes));
            assert!(cutter.next().is_err(), "{bytes:?}");
        }
    }
}
