//! What became of every datagram of a `UdpStream`.
//!
//! Pure arithmetic over the two ends' records.

use std::collections::BTreeSet;
use std::ops::Range;

/// A datagram that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its number, from 0.
    pub seq: u64,
    /// When the first sender had it, just before it sent.
    pub sent_ns: u64,
    /// The kernel's stamp at the receiving interface.
    pub received_ns: u64,
}

/// The account of a stream.
#[derive(Clone, Debug)]
pub struct UdpReport {
    /// When each datagram was sent; the index is its number.
    pub sent_ns: Vec<u64>,
    /// Datagrams that the sender's own stack refused; they have no number.
    pub send_errors: u64,
    /// The last of those errors.
    pub last_send_error: Option<String>,
    /// What arrived, in the order of arrival, copies included.
    pub arrivals: Vec<Arrival>,
    /// What came back; `received_ns` is the time at the first sender.
    pub replies: Vec<Arrival>,
    /// Datagrams that belong to something else.
    pub foreign: u64,
    /// What the sockets had no room for: a fault of the test, not of the network.
    pub queue_drops: u64,
}

impl UdpReport {
    /// Numbers and times of the datagrams that never arrived.
    pub fn lost(&self) -> Vec<(u64, u64)> {
        missing(&self.sent_ns, &self.arrivals)
    }

    /// Numbers and times of the datagrams that never came back.
    pub fn unanswered(&self) -> Vec<(u64, u64)> {
        missing(&self.sent_ns, &self.replies)
    }

    /// Those of [`UdpReport::lost`] that were sent in a span of time.
    pub fn lost_in(&self, span_ns: Range<u64>) -> Vec<(u64, u64)> {
        let mut lost = self.lost();
        lost.retain(|(_, sent_ns)| span_ns.contains(sent_ns));
        lost
    }

    /// How many datagrams were sent in a span of time.
    pub fn sent_in(&self, span_ns: Range<u64>) -> usize {
        let in_span = self.sent_ns.iter().filter(|at| span_ns.contains(at));
        in_span.count()
    }

    /// What arrived although it was sent after `at_ns`.
    pub fn delivered_sent_after(&self, at_ns: u64) -> Vec<Arrival> {
        let after = |arrival: &&Arrival| arrival.sent_ns > at_ns;
        self.arrivals.iter().filter(after).copied().collect()
    }

    /// Arrivals of a number that had arrived before.
    pub fn duplicates(&self) -> usize {
        let distinct: BTreeSet<u64> = self.arrivals.iter().map(|a| a.seq).collect();
        self.arrivals.len() - distinct.len()
    }

    /// Arrivals with a lower number than one before.
    pub fn reordered(&self) -> usize {
        let mut highest = 0;
        let mut late = 0;
        for arrival in &self.arrivals {
            late += usize::from(arrival.seq < highest);
            highest = highest.max(arrival.seq);
        }
        late
    }

    /// The account in one line.
    pub fn summary(&self) -> String {
        format!(
            "{} sent ({} refused), {} arrived, {} lost, {} twice, {} out of order, {} replies, {} foreign, {} without room",
            self.sent_ns.len(),
            self.send_errors,
            self.arrivals.len(),
            self.lost().len(),
            self.duplicates(),
            self.reordered(),
            self.replies.len(),
            self.foreign,
            self.queue_drops
        )
    }
}

fn missing(sent_ns: &[u64], arrivals: &[Arrival]) -> Vec<(u64, u64)> {
    let arrived: BTreeSet<u64> = arrivals.iter().map(|a| a.seq).collect();
    (0..)
        .zip(sent_ns.iter().copied())
        .filter(|(seq, _)| !arrived.contains(seq))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_finds_what_is_lost_twice_late_and_sent_too_late() {
        let arrival = |seq: u64| Arrival {
            seq,
            sent_ns: 100 + seq,
            received_ns: 200 + seq,
        };
        let report = UdpReport {
            sent_ns: vec![100, 101, 102, 103, 104],
            send_errors: 0,
            last_send_error: None,
            arrivals: [0, 3, 1, 3].map(arrival).to_vec(),
            replies: Vec::new(),
            foreign: 0,
            queue_drops: 0,
        };
        assert_eq!(report.lost(), [(2, 102), (4, 104)]);
        assert_eq!(report.lost_in(103..200), [(4, 104)]);
        assert_eq!((report.duplicates(), report.reordered()), (1, 1));
        assert_eq!(report.delivered_sent_after(101), [arrival(3), arrival(3)]);
        assert_eq!(report.unanswered().len(), 5);
        assert_eq!(report.sent_in(101..103), 2);
    }
}
