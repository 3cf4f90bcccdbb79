//! When changes took effect, told from what became of numbered datagrams. Pure.

use anyhow::{Result, ensure};

use super::api::Times;
use crate::lab::UdpReport;

/// A change of what is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) times: Times,
    /// Whether the datagrams are allowed from then on.
    pub(super) allows: bool,
}

/// The datagrams of a stream: when each was sent, and whether it arrived.
pub(super) struct Fates {
    sent: Vec<(u64, bool)>,
}

impl Fates {
    /// Of a stream whose sockets lost nothing.
    ///
    /// # Errors
    /// When they had no room for some, so that nothing can be told.
    pub(super) fn of(report: &UdpReport) -> Result<Self> {
        ensure!(
            report.queue_drops == 0,
            "the machine was too busy to count: {}",
            report.summary()
        );
        let mut sent: Vec<(u64, bool)> = report.sent_ns.iter().map(|at| (*at, false)).collect();
        for arrival in &report.arrivals {
            let slot = usize::try_from(arrival.seq)
                .ok()
                .and_then(|seq| sent.get_mut(seq));
            if let Some((_, arrived)) = slot {
                *arrived = true;
            }
        }
        Ok(Self { sent })
    }

    /// What came of changes, in the order in which they were made.
    pub(super) fn after(&self, changes: &[Change]) -> Vec<Effect> {
        let ends = changes.iter().skip(1).map(|next| next.times.asked_ns);
        changes
            .iter()
            .zip(ends.chain([u64::MAX]))
            .map(|(change, end_ns)| self.effect(*change, end_ns))
            .collect()
    }

    fn effect(&self, change: Change, end_ns: u64) -> Effect {
        // A change may be in force before its maker knows that it was taken.
        let begin = self
            .sent
            .partition_point(|(at, _)| *at < change.times.asked_ns);
        let end = self.sent.partition_point(|(at, _)| *at < end_ns);
        let window = &self.sent[begin..end];
        let first = window
            .iter()
            .position(|(_, arrived)| *arrived == change.allows);
        let back = window.iter().skip(first.unwrap_or(window.len()));
        Effect {
            change,
            first_ns: first.map(|first| window[first].0),
            judged_ns: first.and_then(|first| Some(window.get(first + 1)?.0)),
            flaps: back
                .filter(|(_, arrived)| *arrived != change.allows)
                .count(),
        }
    }
}

/// What came of one change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub(super) change: Change,
    /// When the first datagram was sent that met the change; none if none did
    /// before the next change.
    pub(super) first_ns: Option<u64>,
    /// When the one after it was sent: by then the first one had been judged,
    /// which a sender that is held up does not know at `first_ns`.
    pub(super) judged_ns: Option<u64>,
    /// Datagrams after that one that met what was before.
    pub(super) flaps: usize,
}

impl Effect {
    /// From the server's answer to the first datagram that met the change, and
    /// 0 if that was sent before the answer.
    pub(super) fn latency_ns(&self) -> Option<u64> {
        let first_ns = self.first_ns?;
        Some(first_ns.saturating_sub(self.change.times.answered_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(asked_ns: u64, answered_ns: u64, allows: bool) -> Change {
        let times = Times {
            asked_ns,
            answered_ns,
        };
        Change { times, allows }
    }

    /// A datagram each 10 ns from 0 on; `+` arrives.
    fn fates(text: &str) -> Fates {
        let sent = (0..).zip(text.chars());
        Fates {
            sent: sent.map(|(at, fate)| (at * 10, fate == '+')).collect(),
        }
    }

    #[test]
    fn a_change_is_in_force_with_the_first_datagram_that_meets_it() {
        //              0    5    10   15
        let fates = fates("+++++++-----+++");
        let effects = fates.after(&[change(50, 55, false), change(105, 130, true)]);
        assert_eq!(effects[0].first_ns, Some(70));
        assert_eq!(effects[0].judged_ns, Some(80));
        assert_eq!(effects[0].latency_ns(), Some(15));
        assert_eq!(effects[1].first_ns, Some(120));
        assert_eq!(effects[1].latency_ns(), Some(0), "before the answer");
        assert_eq!((effects[0].flaps, effects[1].flaps), (0, 0));
    }

    #[test]
    fn what_goes_back_is_a_flap_and_what_never_comes_is_none() {
        let fates = fates("++-+-+++++");
        let effects = fates.after(&[
            change(0, 5, false),
            change(50, 55, true),
            change(70, 75, false),
        ]);
        assert_eq!(effects[0].flaps, 1);
        assert_eq!(effects[2].first_ns, None);
        assert_eq!(effects[2].latency_ns(), None);
    }
}
