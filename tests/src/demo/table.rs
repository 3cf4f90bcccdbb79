//! The connectivity matrix as a table of at most 80 columns.
//!
//! A cell stands for both IP versions and names them only if they differ.

use super::cast::{COLUMNS, Cast};
use super::measure::Answer;
use super::screen::{Screen, Tone};
use crate::lab::{Family, Proto};

/// Columns of the name in front.
const NAMES: usize = 15;
/// Columns of a cell at least, the blank in front not included.
const CELL: usize = 5;

/// Prints who reached whom.
pub(super) fn print(screen: &Screen, cast: &Cast, answers: &[Answer]) {
    for heading in headings() {
        screen.line(&screen.paint(Tone::Faint, &heading));
    }
    for from in &cast.actors {
        let mut line = format!("{:NAMES$}", from.name());
        for (column, width) in COLUMNS.into_iter().zip(widths()) {
            let reached = |family| {
                let mut matching = answers.iter().filter(|answer| {
                    let question = &answer.question;
                    question.from.name() == from.name()
                        && (question.to.name(), question.port, question.proto) == column
                        && question.family == family
                });
                matching.next().map(|answer| answer.measured.is_connected())
            };
            let (text, tone) = cell(Family::BOTH.map(reached));
            line.push_str(&screen.paint(tone, &format!("{text:>width$}")));
        }
        screen.line(&line);
    }
}

/// Three lines: the host (its name without the namespace), port, protocol.
fn headings() -> [String; 3] {
    let mut lines = ["to", "port", "from"].map(|text| format!("{text:NAMES$}"));
    for (column, width) in COLUMNS.into_iter().zip(widths()) {
        for (line, text) in lines.iter_mut().zip(titles(column)) {
            line.push_str(&format!("{text:>width$}"));
        }
    }
    lines
}

fn titles((host, port, proto): (&str, u16, Proto)) -> [String; 3] {
    let host = host.rsplit('/').next().unwrap_or(host).to_owned();
    match proto {
        Proto::Icmp => [host, "-".to_owned(), "ping".to_owned()],
        Proto::Tcp | Proto::Udp | Proto::Sctp | Proto::Other(_) => {
            [host, port.to_string(), proto.to_string()]
        }
    }
}

fn widths() -> impl Iterator<Item = usize> {
    COLUMNS.into_iter().map(|column| {
        let longest = titles(column).iter().map(String::len).max();
        1 + longest.unwrap_or(0).max(CELL)
    })
}

/// IPv4 and IPv6; none: not asked.
fn cell(reached: [Option<bool>; 2]) -> (&'static str, Tone) {
    match reached {
        [Some(true), Some(true)] => ("yes", Tone::Good),
        [Some(false), Some(false)] => ("no", Tone::Bad),
        [Some(true), _] => ("v4", Tone::Good),
        [_, Some(true)] => ("v6", Tone::Good),
        [Some(false), None] | [None, Some(false)] => ("no", Tone::Bad),
        [None, None] => (".", Tone::Faint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_fits_a_terminal_with_its_indent() {
        for line in headings() {
            assert_eq!(line.len(), NAMES + widths().sum::<usize>());
            assert!(line.len() + 2 <= 80);
        }
    }

    #[test]
    fn cell_names_the_versions_only_if_they_differ() {
        assert_eq!(cell([Some(true), Some(true)]).0, "yes");
        assert_eq!(cell([Some(false), Some(false)]).0, "no");
        assert_eq!(cell([Some(true), Some(false)]).0, "v4");
        assert_eq!(cell([Some(false), Some(true)]).0, "v6");
        assert_eq!(cell([None, None]).0, ".");
    }
}
