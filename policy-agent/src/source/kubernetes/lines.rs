//! A watch's bytes to its lines: each is one event.

use std::ops::ControlFlow;

/// Longest line that is taken, in bytes. The API server takes objects of 3 MiB at
/// most (`--max-request-bytes` of etcd is half of it); JSON in JSON can double that.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Room that is kept for the next line, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// The line that has begun.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

/// A line is longer than any event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// Gives each line that ends in `bytes` to `each`, without its end, until it
    /// breaks off. Empty lines are none.
    pub(super) fn take<B>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, TooLong> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            let flow = if self.begun.is_empty() {
                if line.is_empty() {
                    continue;
                }
                each(line)
            } else {
                self.begun.extend_from_slice(line);
                let flow = each(&self.begun);
                self.begun.clear();
                self.begun.shrink_to(KEPT_BYTES);
                flow
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        if self.begun.len() + bytes.len() > MAX_LINE_BYTES {
            return Err(TooLong);
        }
        self.begun.extend_from_slice(bytes);
        Ok(ControlFlow::Continue(()))
    }

    /// Whether a line has begun and not ended.
    pub(super) fn is_partial(&self) -> bool {
        !self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&str]) -> (Vec<String>, bool) {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in chunks {
            let flow = lines.take(chunk.as_bytes(), |line| {
                all.push(String::from_utf8(line.to_vec()).unwrap());
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(flow, Ok(ControlFlow::Continue(())));
        }
        (all, lines.is_partial())
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let want = vec!["ab".to_owned(), "c".to_owned(), "def".to_owned()];
        let text = "ab\nc\n\ndef\n";
        assert_eq!(lines(&[text]), (want.clone(), false));
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            assert_eq!(lines(&[one, other]), (want.clone(), false), "{cut}");
        }
        let bytes: Vec<&str> = text.split("").collect();
        assert_eq!(lines(&bytes), (want, false));
    }

    #[test]
    fn half_a_line_is_none() {
        assert_eq!(lines(&["a\nbc"]), (vec!["a".to_owned()], true));
    }

    #[test]
    fn what_comes_after_a_break_is_left() {
        let mut seen = 0;
        let flow = Lines::default().take(b"a\nb\n", |_| {
            seen += 1;
            ControlFlow::Break("enough")
        });
        assert_eq!((flow, seen), (Ok(ControlFlow::Break("enough")), 1));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 1 << 20];
        let mut taken = 0;
        while lines
            .take(&chunk, |_| ControlFlow::<()>::Continue(()))
            .is_ok()
        {
            taken += chunk.len();
        }
        assert_eq!(taken, MAX_LINE_BYTES);
    }
}
