//! Finds the end of a request's head among the bytes that arrive. Reading heads is hyper's part: this only tells when the
//! next request begins.

/// Looks for the empty line that ends a head.
#[derive(Default)]
pub(super) struct HeadEnd {
    /// Something other than line ends came: empty lines before a request do not count.
    began: bool,
    line_is_empty: bool,
    pub found: bool,
}

impl HeadEnd {
    /// Counts those of the next bytes that stand behind the end of the head.
    pub fn bytes_behind(&mut self, bytes: &[u8]) -> usize {
        if self.found {
            return bytes.len();
        }
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\r' => {}
                b'\n' if self.began && self.line_is_empty => {
                    self.found = true;
                    return bytes.len() - index - 1;
                }
                b'\n' => self.line_is_empty = true,
                _ => {
                    self.began = true;
                    self.line_is_empty = false;
                }
            }
        }
        0
    }
}
