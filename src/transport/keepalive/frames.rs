//! The heads of HTTP/2 frames, found in bytes as they pass.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
/// Flag of a ping.
pub(super) const ACK: u8 = 1;
/// Flag of data and headers.
pub(super) const END_STREAM: u8 = 1;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

/// Finds the heads of frames in bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    head: [u8; 9],
    /// Bytes of the head that are known.
    head_filled: u8,
    /// Bytes until the next head.
    rest: u32,
}

impl FrameScanner {
    /// A scanner for bytes of which the first `skipped` are no frame.
    pub(super) fn new(skipped: u32) -> FrameScanner {
        FrameScanner { rest: skipped, ..FrameScanner::default() }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(FrameHead)) {
        while !bytes.is_empty() {
            let skip = bytes.len().min(self.rest as usize);
            self.rest -= skip as u32;
            bytes = &bytes[skip..];
            let head_filled = usize::from(self.head_filled);
            let count = bytes.len().min(self.head.len() - head_filled);
            self.head[head_filled..head_filled + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.head_filled += count as u8;
            if usize::from(self.head_filled) == self.head.len() {
                let [length @ .., kind, flags, a, b, c, d] = self.head;
                self.head_filled = 0;
                self.rest = u32::from_be_bytes([0, length[0], length[1], length[2]]);
                found(FrameHead { kind, flags, stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1) });
            }
        }
    }

    /// Whether the bytes so far end with a whole frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.head_filled == 0 && self.rest == 0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    pub(in super::super) fn head(kind: u8, flags: u8, stream: u32) -> FrameHead {
        FrameHead { kind, flags, stream }
    }

    #[test]
    fn heads_are_found_wherever_the_pieces_end() {
        let bytes = [
            frame(HEADERS, 5, 1, b"headers"),
            frame(DATA, 0, 1, &[PING; 300]),
            frame(PING, 0, 0, b"12345678"),
            frame(RST_STREAM, 0, 1 | 1 << 31, &[0; 4]),
        ]
        .concat();
        for size in [1, 2, 3, 7, 9, 10, 64, bytes.len()] {
            let mut frames = FrameScanner::default();
            let mut heads = Vec::new();
            for piece in bytes.chunks(size) {
                frames.feed(piece, |head| heads.push(head));
            }
            let expected = [head(HEADERS, 5, 1), head(DATA, 0, 1), head(PING, 0, 0), head(RST_STREAM, 0, 1)];
            assert_eq!(heads, expected, "in pieces of {size}");
            assert!(frames.is_between_frames());
        }
    }
}
