//! The house rules that no other tool knows, as code.
//!
//! Each rule looks at one file and names the line it objects to. The rules are
//! about the text, not the syntax, so they are simple and may be strict: a file
//! opens with a `//!` header, stays below 700 lines, has no ignored test, no test
//! where none is run and no note to do something later, and the core stays free of
//! input and output.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// More lines than this hold more than one idea.
const MAX_LINES: usize = 700;
/// The pure part of the agent.
const CORE: &str = "policy-agent/core/src";
/// What the core may not name, and why. Its own Cargo.toml keeps kube, tokio
/// and aya out; the names are here for the message, and for re-exports.
const IMPURE: [(&str, &str); 12] = [
    (
        "kube::",
        "Kubernetes' types stop at policy-agent/src/source",
    ),
    (
        "k8s_openapi",
        "Kubernetes' types stop at policy-agent/src/source",
    ),
    ("tokio", "no threads and no waiting"),
    ("aya::", "no system calls"),
    ("std::fs", "no files"),
    ("std::net::Tcp", "no sockets"),
    ("std::net::Udp", "no sockets"),
    ("std::process", "no processes"),
    ("std::thread", "no threads"),
    ("std::sync::Mutex", "no locks"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
];
/// Notes that belong in the issue tracker. Written so that this file passes.
const NOTES: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
/// Marks a test that is left out.
const IGNORE: &str = concat!("#[ign", "ore");
/// Marks a test.
const TEST: &str = concat!("#[te", "st]");
/// Programs whose manifests say `test = false`.
const UNTESTED: [&str; 2] = ["policy-agent/src/main.rs", "tests/src/bin/"];
/// Folders that hold no source of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];

/// Checks every Rust file below `root`. Returns the objections, one a line, and
/// the number of files looked at.
///
/// # Errors
///
/// When a folder or a file cannot be read.
pub(crate) fn check(root: &Path) -> Result<(Vec<String>, usize)> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut objections = Vec::new();
    for path in &files {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(path);
        objections.extend(check_file(&name.to_string_lossy(), &text));
    }
    Ok((objections, files.len()))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let path = entry.path();
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot look at {}", path.display()))?;
        if kind.is_dir() {
            if !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Checks one file; `name` is its path in the checkout.
fn check_file(name: &str, text: &str) -> Vec<String> {
    let mut objections = Vec::new();
    let mut object = |line: usize, what: &str| objections.push(format!("{name}:{line}: {what}"));

    if !text.starts_with("//! ") {
        object(
            1,
            "a file opens with a //! header: what it does, what it leaves to whom",
        );
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        object(
            lines,
            &format!("more than {MAX_LINES} lines: split it by ideas"),
        );
    }
    let core = name.starts_with(CORE);
    let untested = UNTESTED.iter().any(|path| name.starts_with(path));
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(note) = NOTES.iter().find(|note| has_word(line, note)) {
            object(number, &format!("{note}: do it, or file an issue"));
        }
        if line.trim_start().starts_with(IGNORE) {
            object(number, "a test is never left out");
        }
        if untested && line.trim_start().starts_with(TEST) {
            object(
                number,
                "no test of a program is run: into the library with it",
            );
        }
        if !core || line.trim_start().starts_with("//") {
            continue;
        }
        for (impure, why) in IMPURE {
            if line.contains(impure) {
                object(number, &format!("{impure} in the pure core: {why}"));
            }
        }
    }
    objections
}

/// Whether `word` stands in `line` by itself.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "//! A file.\n";

    fn objections(name: &str, body: &str) -> Vec<String> {
        check_file(name, &format!("{HEADER}{body}"))
    }

    #[test]
    fn a_file_needs_a_header() {
        assert_eq!(check_file("a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(check_file("a.rs", HEADER), Vec::<String>::new());
    }

    #[test]
    fn a_file_may_have_700_lines_and_no_more() {
        assert!(objections("a.rs", &"\n".repeat(MAX_LINES - 1)).is_empty());
        assert_eq!(objections("a.rs", &"\n".repeat(MAX_LINES)).len(), 1);
    }

    #[test]
    fn notes_are_found_as_words_only() {
        for note in NOTES {
            let found = objections("a.rs", &format!("// {note}: later\n"));
            assert_eq!(found, [format!("a.rs:2: {note}: do it, or file an issue")]);
            assert!(objections("a.rs", &format!("const A{note}: u8 = 1;\n")).is_empty());
        }
    }

    #[test]
    fn an_ignored_test_is_found_and_the_word_in_a_string_is_not() {
        assert_eq!(
            objections("a.rs", &format!("    {IGNORE}]\nfn t() {{}}\n")).len(),
            1
        );
        assert_eq!(
            objections("a.rs", &format!("{IGNORE} = \"slow\"]\n")).len(),
            1
        );
        assert!(objections("a.rs", &format!("let a = \"{IGNORE}]\";\n")).is_empty());
    }

    #[test]
    fn a_test_is_found_where_none_is_run() {
        let test = format!("    {TEST}\n    fn t() {{}}\n");
        for name in ["policy-agent/src/main.rs", "tests/src/bin/a.rs"] {
            assert_eq!(objections(name, &test).len(), 1, "{name}");
        }
        for name in ["policy-agent/src/lib.rs", "tests/src/demo/mod.rs"] {
            assert!(objections(name, &test).is_empty(), "{name}");
        }
    }

    #[test]
    fn the_core_is_pure_and_the_rest_need_not_be() {
        let core = "policy-agent/core/src/store.rs";
        for (impure, _) in IMPURE {
            let line = format!("let x = {impure}();\n");
            assert_eq!(objections(core, &line).len(), 1, "{impure}");
            assert!(objections("policy-agent/src/agent.rs", &line).is_empty());
            assert!(objections(core, &format!("// not {impure}\n")).is_empty());
        }
    }

    #[test]
    fn this_checkout_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (objections, files) = check(root).unwrap();
        assert!(
            files > 10,
            "only {files} files found below {}",
            root.display()
        );
        assert!(objections.is_empty(), "{}", objections.join("\n"));
    }
}
