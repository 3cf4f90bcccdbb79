//! What the demo prints: headings, wrapped text, colours on a terminal only.
//!
//! Nothing is wider than [`WIDTH`]; what is to be shown is for the callers.

use std::io::IsTerminal;

/// Columns that any terminal has.
const WIDTH: usize = 80;

/// What a word means, for terminals with colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Allowed, or as it should be.
    Good,
    /// Denied, or cut.
    Bad,
    /// A heading.
    Heading,
    /// Of less interest.
    Faint,
}

/// Standard output, as the demo uses it.
pub(super) struct Screen {
    colours: bool,
    headings: u32,
}

impl Screen {
    /// With colours if standard output is a terminal and the user does not
    /// refuse them (<https://no-color.org>).
    pub(super) fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: std::io::stdout().is_terminal() && !refused,
            headings: 0,
        }
    }

    /// Begins the next part.
    pub(super) fn heading(&mut self, title: &str) {
        self.headings += 1;
        let title = format!("{}. {title}", self.headings);
        println!("\n{}", self.paint(Tone::Heading, &title));
    }

    /// Prints sentences, wrapped.
    pub(super) fn say(&self, text: &str) {
        for line in wrap(text, "  ", "  ") {
            println!("{line}");
        }
    }

    /// Prints lines of another program, those that are too long wrapped.
    pub(super) fn quote<'a>(&self, lines: impl IntoIterator<Item = &'a str>) {
        for line in lines {
            for part in wrap(line, "  ", "      ") {
                println!("{part}");
            }
        }
    }

    /// Prints a command line as a user would type it.
    pub(super) fn command(&self, command: &str) {
        println!("  {}", self.paint(Tone::Faint, &format!("$ {command}")));
    }

    /// Prints a line that is laid out already.
    pub(super) fn line(&self, text: &str) {
        println!("{}", format!("  {text}").trim_end());
    }

    /// Colours a text, if there are colours.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Heading => "1",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Breaks a line at blanks and behind commas. A line that is short enough keeps
/// its blanks, so that columns stay columns.
fn wrap(text: &str, first: &str, rest: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut indent, mut left) = (first, text.trim_end());
    loop {
        let room = WIDTH - indent.len();
        let Some((limit, _)) = left.char_indices().nth(room) else {
            lines.push(format!("{indent}{left}").trim_end().to_owned());
            return lines;
        };
        // A blank may be just behind the last column, a comma may not. A comma
        // counts only where no blank is near.
        let blank = left[..=limit]
            .rfind(' ')
            .filter(|&at| !left[..at].trim().is_empty());
        let comma = left[..limit].rfind(',').map(|at| at + 1);
        let at = blank
            .filter(|&at| at > limit / 2)
            .or(blank.max(comma))
            .unwrap_or(limit);
        lines.push(format!("{indent}{}", left[..at].trim_end()));
        left = left[at..].trim_start();
        indent = rest;
    }
}

/// Of a table whose columns are aligned under the headings of its first line,
/// those with the given headings.
pub(super) fn some_columns<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    headings: &[&str],
) -> Vec<String> {
    let mut lines = lines.into_iter();
    let first = lines.next().unwrap_or_default();
    let mut spans = Vec::new();
    let mut at = 0;
    for part in first.split_inclusive("  ") {
        let heading = part.trim();
        if !heading.is_empty() {
            // Blanks after two that ended the last heading.
            let start = at + part.len() - part.trim_start().len();
            spans.push((heading, start));
        }
        at += part.len();
    }
    let end_of = |index: usize| spans.get(index + 1).map(|(_, start)| *start);
    let cut = |line: &str| {
        let mut kept = String::new();
        for (index, (heading, start)) in spans.iter().enumerate() {
            if headings.contains(heading) {
                let end = end_of(index).unwrap_or(line.len()).min(line.len());
                kept.push_str(line.get(*start..end).unwrap_or_default());
            }
        }
        kept.trim_end().to_owned()
    };
    std::iter::once(first).chain(lines).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_columns_keep_their_width() {
        let table = ["A    LONG B  C", "1    x       23", "22   yyy"];
        assert_eq!(
            some_columns(table, &["A", "C"]),
            ["A    C", "1    23", "22"]
        );
        assert_eq!(some_columns(table, &["LONG B"]), ["LONG B", "x", "yyy"]);
        assert!(some_columns([], &["A"]).concat().is_empty());
    }

    #[test]
    fn short_lines_stay_as_they_are() {
        assert_eq!(wrap("a   b", "  ", ""), ["  a   b"]);
        assert_eq!(wrap("", "  ", ""), [""]);
        let full = "x".repeat(WIDTH - 2);
        assert_eq!(wrap(&full, "  ", ""), [format!("  {full}")]);
    }

    #[test]
    fn long_lines_break_at_blanks_and_behind_commas_and_lose_nothing() {
        let words = "abcdefg ".repeat(40) + &"hij,".repeat(60) + &"k".repeat(200);
        let lines = wrap(&words, "  ", "    ");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert!(lines.len() > 6);
        let bare = |text: &str| text.replace(' ', "");
        assert_eq!(bare(&lines.concat()), bare(&words));
        assert!(lines[0].ends_with("abcdefg"), "{:?}", lines[0]);
        assert!(lines.iter().any(|line| line.ends_with("hij,")));
    }
}
