//! Frames: a length of 4 octets (big-endian), a command octet, a payload of length - 1 octets.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// Octets in a frame at most, its length not counted (2 MiB). A body chunk is at most 65,535 octets, but a header field
/// comes in one frame however long it is, and some MTAs let fields of 1 MiB through. A larger `limits.header_size` has no
/// effect on a single field.
pub const FRAME_MAX: usize = 2 * 1024 * 1024;

/// One frame, without its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The command octet.
    pub code: u8,
    /// All after it.
    pub payload: Bytes,
}

/// Why a stream of frames cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A frame without even a command.
    #[error("a frame of length 0")]
    Empty,
    /// A length beyond [`FRAME_MAX`]: this is no milter speaking.
    #[error("a frame of {length} octets, more than {FRAME_MAX}")]
    TooLong {
        /// The length announced.
        length: usize,
    },
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Octets of the frame that begins in `buffer`, 0 where its length is not there yet.
pub fn announced(buffer: &[u8]) -> usize {
    buffer.first_chunk::<4>().map_or(0, |length| usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
}

/// Takes frames off a buffer. The announced length is checked before anything is kept for it.
#[derive(Debug, Default)]
pub struct FrameDecoder;

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some((length, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(FrameError::TooLong { length });
        }
        let Some(payload_length) = length.checked_sub(1) else { return Err(FrameError::Empty) };
        if rest.len() < length {
            return Ok(None);
        }
        buffer.advance(4);
        let code = buffer.get_u8();
        Ok(Some(Frame { code, payload: buffer.split_to(payload_length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(code: u8, payload: &[u8]) -> Vec<u8> {
        let mut wire = (payload.len() as u32 + 1).to_be_bytes().to_vec();
        wire.push(code);
        wire.extend_from_slice(payload);
        wire
    }

    #[test]
    fn a_field_of_one_mebibyte_fits_into_a_frame() {
        let payload = vec![b'a'; 1 << 20];
        let mut buffer = BytesMut::from(&wire(b'L', &payload)[..]);
        assert_eq!(FrameDecoder.decode(&mut buffer).unwrap().unwrap().payload, payload);
    }

    #[test]
    fn a_length_of_zero_or_garbage_is_an_error_before_anything_is_kept_for_it() {
        let mut buffer = BytesMut::from(&[0u8, 0, 0, 0, b'O'][..]);
        assert!(matches!(FrameDecoder.decode(&mut buffer), Err(FrameError::Empty)));
        let mut buffer = BytesMut::from(&b"EHLO x"[..]);
        let before = buffer.capacity();
        assert!(matches!(FrameDecoder.decode(&mut buffer), Err(FrameError::TooLong { .. })));
        assert_eq!(buffer.capacity(), before);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..8), piece in 1usize..30) {
            let all: Vec<u8> = frames.iter().flat_map(|(code, payload)| wire(*code, payload)).collect();
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for chunk in all.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = FrameDecoder.decode(&mut buffer).unwrap() {
                    found.push((frame.code, frame.payload.to_vec()));
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert!(buffer.is_empty());
        }
    }
}
