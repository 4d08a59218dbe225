//! What the fuzzer decides besides the text itself stands before it, a byte a choice.

/// Takes choices off the front of the fuzzer's bytes. What is not there is 0.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Of all bytes of one run.
    pub fn of(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// One choice.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Several.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// What is left: the text.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// `text` in pieces, of these sizes in turn (0 is one byte).
pub fn pieces<'a>(mut text: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let size = sizes.next().map_or(1, |size| usize::from(*size) + 1);
        let (piece, rest) = text.split_at(size.min(text.len()));
        pieces.push(piece);
        text = rest;
    }
    pieces
}
