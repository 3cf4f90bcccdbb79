//! JSON lines on standard output, written by a thread of their own: a reader that
//! stops reading must not stop enforcement.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde::Serialize;

/// Lines that may wait for the reader; those beyond are lost, and counted.
const WAITING: usize = 8_192;
/// How long ending waits for the reader.
const LAST: Duration = Duration::from_millis(500);

/// Where lines go.
#[derive(Debug)]
pub(super) struct Lines {
    queue: SyncSender<String>,
    ended: Receiver<()>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Lines to standard output.
    pub(super) fn stdout() -> Self {
        Self::to(std::io::stdout())
    }

    fn to(mut out: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel::<String>(WAITING);
        let (end, ended) = sync_channel::<()>(1);
        thread::spawn(move || {
            for mut line in lines {
                line.push('\n');
                // Nobody reads: there is nobody to tell either.
                let _ = out.write_all(line.as_bytes());
                let _ = out.flush();
            }
            let _ = end.send(());
        });
        Self {
            queue,
            ended,
            lost: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Writes a line some time soon; never waits.
    pub(super) fn write<T: Serialize>(&self, line: &T) {
        let sent = serde_json::to_string(line).is_ok_and(|text| self.queue.try_send(text).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were lost because nobody read.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits a moment for what is still to be written.
    pub(super) fn finish(self) {
        drop(self.queue);
        match self.ended.recv_timeout(LAST) {
            Ok(()) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct To(Sender<Vec<u8>>);

    impl Write for To {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Until the test ends.
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (out, read) = channel();
        let lines = Lines::to(To(out));
        lines.write(&1);
        lines.write(&"two");
        lines.finish();
        let text: Vec<u8> = read.iter().flatten().collect();
        assert_eq!(text, b"1\n\"two\"\n");
    }

    #[test]
    fn reader_that_stops_costs_lines_and_nothing_else() {
        let (release, stuck) = channel();
        let lines = Lines::to(Stuck(stuck));
        for n in 0..WAITING + 100 {
            lines.write(&n);
        }
        assert!((98..=100).contains(&lines.lost()), "{}", lines.lost());
        drop(release);
    }
}
