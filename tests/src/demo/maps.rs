//! The kernel's maps as `bpftool map dump` prints them, shortened.
//!
//! The text is bpftool's own, one element a paragraph instead of a field a line;
//! elements that nobody uses are left out.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use policy_common::abi::ABI_VERSION;
use policy_common::abi::endpoint::FLAG_USED;
use serde_json::Value;

/// Where Debian keeps it, which is not on every PATH.
const SBIN: &str = "/usr/sbin/bpftool";

/// A map's used elements.
pub(super) struct Dump {
    /// Each in one line.
    pub(super) elements: Vec<Element>,
    /// How many there are, unused ones included.
    pub(super) total: usize,
}

/// An element, as text and as values.
pub(super) struct Element {
    pub(super) text: String,
    pub(super) fields: Value,
}

/// Where the agent pins a map.
pub(super) fn pin(bpffs: &Path, map: &str) -> PathBuf {
    bpffs
        .join("policy-agent")
        .join(format!("v{ABI_VERSION}"))
        .join("maps")
        .join(map)
}

/// Dumps a map; `is_used` tells used elements from empty ones.
///
/// # Errors
/// When bpftool is missing or fails, or prints no named fields.
pub(super) fn dump(bpffs: &Path, map: &str, is_used: fn(&Value) -> bool) -> Result<Dump> {
    let pin = pin(bpffs, map);
    let run = |program: &str| {
        Command::new(program)
            .args(["map", "dump", "pinned"])
            .arg(&pin)
            .output()
    };
    let output = match run("bpftool") {
        Err(error) if error.kind() == ErrorKind::NotFound => run(SBIN),
        other => other,
    };
    let output = output.context("run bpftool; `cargo xtask setup` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "bpftool map dump pinned {}: {text}{}",
        pin.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut elements = elements(&text).with_context(|| format!("the dump of {map}"))?;
    let total = elements.len();
    elements.retain(|element| is_used(&element.fields["value"]));
    Ok(Dump { elements, total })
}

/// Splits bpftool's output: one array of objects, each indented by four blanks.
fn elements(text: &str) -> Result<Vec<Element>> {
    let Some(body) = text.trim().strip_prefix('[') else {
        bail!("it does not begin as bpftool's dumps do: {text}");
    };
    let body = body
        .strip_suffix(']')
        .context("it ends too early")?
        .trim_end();
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let body = body
        .strip_prefix('{')
        .and_then(|body| body.strip_suffix('}'));
    let body = body.context("its elements are no objects")?.trim_end();
    body.split("\n    },{\n").map(element).collect()
}

/// One element from the lines between its braces.
fn element(lines: &str) -> Result<Element> {
    let mut text = String::from("{");
    for line in lines.lines().map(str::trim) {
        if !(text.ends_with('{') || line.starts_with([']', '}']) || line.is_empty()) {
            text.push(' ');
        }
        text.push_str(line);
    }
    text.push('}');
    let fields: Value =
        serde_json::from_str(&text).with_context(|| format!("an element is no JSON: {text}"))?;
    ensure!(
        fields["value"].is_object(),
        "an element has no named fields: {text}"
    );
    Ok(Element {
        text: text[1..text.len() - 1].replace('"', ""),
        fields,
    })
}

/// Whether a value of the endpoints map is a pod's: empty slots lack the flag.
pub(super) fn is_endpoint(value: &Value) -> bool {
    let flags = value["flags"].as_u64();
    flags.is_some_and(|flags| flags & u64::from(FLAG_USED) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"[{
        "key": 0,
        "value": {
            "flags": 0,
            "addr4": [0,0,0,0
            ]
        }
    },{
        "key": 1,
        "value": {
            "flags": 1,
            "addr4": [10,244,1,4
            ]
        }
    }
]
"#;

    #[test]
    fn elements_become_lines_with_all_their_fields() {
        let all = elements(DUMP).expect("a dump");
        assert_eq!(
            all[1].text,
            "key: 1, value: {flags: 1, addr4: [10,244,1,4]}"
        );
        let used = |element: &Element| is_endpoint(&element.fields["value"]);
        assert_eq!([used(&all[0]), used(&all[1])], [false, true]);
        assert!(elements("[]\n").expect("an empty map").is_empty());
    }

    #[test]
    fn what_has_no_named_fields_is_refused() {
        assert!(elements("key: 00 00 00 00  value: 01 00").is_err());
        assert!(elements("[{\n        \"key\": 1,\n        \"value\": 2\n    }\n]").is_err());
        assert!(elements("[{\n        \"key\": 1,").is_err());
    }
}
