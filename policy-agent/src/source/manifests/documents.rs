//! A file's text to documents: YAML with several documents, or JSON.
//!
//! YAML is cut at its `---` lines before it is parsed, so that what is wrong in
//! one document does not hide the others.

use serde_json::Value;
use serde_saphyr::options::AliasLimits;

use super::json::Unambiguous;

/// A part of a file that is parsed on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk<'t> {
    pub(super) text: &'t str,
    /// Line of the file at which it begins, from 1.
    pub(super) line: usize,
    pub(super) json: bool,
}

/// Why a chunk is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Line in the file, from 1.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Parser events of one chunk: far more than its bytes can hold. What bounds the
/// work is the size of the file and what aliases may repeat.
const MAX_EVENTS: usize = 200_000_000;
/// Events that aliases may repeat in one chunk; stops documents that multiply
/// themselves.
const MAX_REPEATED_EVENTS: usize = 1_000_000;

/// Cuts a file's text into what can be parsed apart.
pub(super) fn chunks(text: &str, json: bool) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if json {
        return vec![Chunk {
            text,
            line: 1,
            json,
        }];
    }
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    // Comments and directives belong to the document that follows.
    let mut has_content = false;
    let mut at = 0;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = (line.strip_prefix("---"))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && has_content {
            chunks.push(Chunk {
                text: &text[start..at],
                line: start_line,
                json: false,
            });
            (start, start_line) = (at, i + 1);
        }
        let bare = line.trim_start();
        has_content |= is_marker || !(bare.is_empty() || bare.starts_with(['#', '%']));
        at += line.len();
    }
    if has_content {
        chunks.push(Chunk {
            text: &text[start..],
            line: start_line,
            json: false,
        });
    }
    chunks
}

/// Parses a chunk; empty documents are none.
pub(super) fn parse(chunk: Chunk<'_>) -> Result<Vec<Value>, SyntaxError> {
    // JSON is YAML, and its own parser is a hundred times faster.
    let body = chunk.text.strip_prefix("---").unwrap_or(chunk.text);
    if chunk.json || body.trim_start().starts_with('{') {
        match parse_json(body, chunk.line) {
            Err(_) if !chunk.json => {}
            result => return result,
        }
    }
    let mut alias_limits = AliasLimits::default();
    alias_limits.max_total_replayed_events = MAX_REPEATED_EVENTS;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MAX_EVENTS,
            max_nodes: MAX_EVENTS,
            max_total_scalar_bytes: usize::MAX,
            max_documents: usize::MAX,
        },
        alias_limits: alias_limits,
        with_snippet: false,
    };
    let parsed = serde_saphyr::from_multiple_with_options(chunk.text, options);
    parsed.map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let line = usize::try_from(line).unwrap_or(1).max(1);
        SyntaxError {
            line: chunk.line + line - 1,
            message: without_place(&error.to_string()).to_owned(),
        }
    })
}

fn parse_json(text: &str, first_line: usize) -> Result<Vec<Value>, SyntaxError> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    let values = values.map(|value| value.map(|Unambiguous(value)| value));
    let values = values.filter(|value| !matches!(value, Ok(Value::Null)));
    values
        .collect::<Result<_, _>>()
        .map_err(|error| SyntaxError {
            line: first_line + error.line().max(1) - 1,
            message: without_place(&error.to_string()).to_owned(),
        })
}

/// The message without the place in the chunk, which is not the one in the file.
fn without_place(message: &str) -> &str {
    message
        .rfind(" at line ")
        .map_or(message, |at| &message[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, &str)> {
        chunks(text, false)
            .iter()
            .map(|c| (c.line, c.text))
            .collect()
    }

    #[test]
    fn yaml_is_cut_at_its_markers_and_nowhere_else() {
        assert_eq!(
            lines("a: 1\n---\nb: 2\n"),
            [(1, "a: 1\n"), (2, "---\nb: 2\n")]
        );
        assert_eq!(
            lines("---\na: 1\n--- # x\nb"),
            [(1, "---\na: 1\n"), (3, "--- # x\nb")]
        );
        assert_eq!(
            lines("# c\n%YAML 1.2\n---\r\na: 1"),
            [(1, "# c\n%YAML 1.2\n---\r\na: 1")]
        );
        assert_eq!(
            lines("a: |\n  ---\n  x\n---x: 1\n"),
            [(1, "a: |\n  ---\n  x\n---x: 1\n")]
        );
        assert_eq!(lines(""), []);
        assert_eq!(lines("# nothing\n\n"), []);
        assert_eq!(lines("\u{feff}a: 1"), [(1, "a: 1")]);
    }

    fn parsed(text: &str) -> Vec<Result<Vec<Value>, usize>> {
        let chunks = chunks(text, false);
        let parsed = chunks.into_iter().map(parse);
        parsed.map(|p| p.map_err(|error| error.line)).collect()
    }

    #[test]
    fn an_error_names_its_line_in_the_file_and_leaves_the_other_documents() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(
            parsed("a: 1\n---\nx: [\n---\nb: 2\n...\n---\n# empty\n---\n{\"c\": 3}\n"),
            [
                Ok(vec![json(r#"{"a":1}"#)]),
                Err(3),
                Ok(vec![json(r#"{"b":2}"#)]),
                Ok(vec![]),
                Ok(vec![json(r#"{"c":3}"#)]),
            ]
        );
        assert_eq!(
            parsed("a: 1\n---\n\nb: c: d\n"),
            [Ok(vec![json(r#"{"a":1}"#)]), Err(4)]
        );
    }

    #[test]
    fn json_may_have_several_values_and_errors_with_their_line() {
        let json = |text| Chunk {
            text,
            line: 1,
            json: true,
        };
        assert_eq!(parse(json("{}\n{}")).unwrap().len(), 2);
        assert_eq!(parse(json("")).unwrap().len(), 0);
        assert_eq!(parse(json("{}\n{")).unwrap_err().line, 2);
        assert!(parse(json("a: 1")).is_err());
    }

    #[test]
    fn a_document_that_multiplies_itself_is_an_error() {
        let mut bomb = String::from("a: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let items = vec![format!("*a{}", i - 1); 10].join(",");
            bomb += &format!("b{i}: &a{i} [{items}]\n");
        }
        assert!(parse(chunks(&bomb, false)[0]).is_err());
        assert_eq!(parsed("a: &x {b: 1}\nc: *x\n").len(), 1);
    }

    #[test]
    fn duplicate_keys_are_an_error() {
        assert_eq!(parsed("a: 1\nb: 2\na: 3\n"), [Err(3)]);
        assert_eq!(parsed("{\"a\": 1,\n\"a\": 2}"), [Err(2)]);
        let text = "{\"a\": 1}\n{\"a\": {\"b\": [{}],\n\"b\": -2.5}}";
        let json = Chunk {
            text,
            line: 1,
            json: true,
        };
        let error = parse(json).unwrap_err();
        assert_eq!((error.line, &*error.message), (3, "duplicate key \"b\""));
    }
}
