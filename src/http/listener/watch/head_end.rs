//! Finds the end of a request's head in the bytes received. hyper parses heads; this only detects where the next
//! request begins.

/// Scanner for the empty line that ends a head.
#[derive(Default)]
pub(super) struct HeadEnd {
    /// Set once something other than line ends has come: empty lines before a request do not count.
    began: bool,
    line_is_empty: bool,
    pub found: bool,
}

impl HeadEnd {
    /// Returns how many of the next bytes follow the end of the head.
    pub fn bytes_after(&mut self, bytes: &[u8]) -> usize {
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
