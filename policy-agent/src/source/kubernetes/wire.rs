//! The frame around objects: events of a watch, pages of a list, refusals.
//!
//! Objects stay text here; what they mean is `convert`'s.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The annotation of the bookmark with which a streaming list is complete
/// (Kubernetes documentation, "Streaming lists").
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One event of a watch.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The object is there, like this.
    Is(&'a str),
    /// The object is gone; this is what it was.
    Gone(&'a str),
    /// Nothing else happened up to a version.
    Bookmark {
        version: String,
        /// Everything that was there at the beginning has been told.
        complete: bool,
    },
    /// The watch ends.
    Refused(Refusal),
}

/// What the server says no with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) code: u16,
    /// For machines: `Expired`, `Forbidden`.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
    details: Option<Details>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: u32,
}

impl Refusal {
    /// What a body says, or as much as the status says.
    pub(super) fn read(code: u16, body: &[u8]) -> Self {
        let mut refusal: Self = serde_json::from_slice(body).unwrap_or_default();
        if refusal.message.is_empty() {
            let text = String::from_utf8_lossy(body);
            refusal.message = text.trim().chars().take(200).collect();
        }
        refusal.code = code;
        refusal
    }

    /// The version that was asked for is not kept any more.
    pub(super) fn is_expired(&self) -> bool {
        self.code == 410 || self.reason == "Expired" || self.reason == "Gone"
    }

    /// How long the server asks to be left alone, in seconds.
    pub(super) fn retry_after(&self) -> Option<u32> {
        let details = self.details.as_ref();
        details
            .map(|details| details.retry_after_seconds)
            .filter(|seconds| *seconds > 0)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Head {
    metadata: Option<Metadata>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    resource_version: Option<String>,
    r#continue: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a line of a watch.
///
/// # Errors
/// What is wrong with it: then nothing that follows can be believed.
pub(super) fn event(line: &[u8]) -> Result<Event<'_>, String> {
    let line: Line<'_> =
        serde_json::from_slice(line).map_err(|error| format!("an event is not JSON: {error}"))?;
    let object = line.object.get();
    match &*line.r#type {
        "ADDED" | "MODIFIED" => Ok(Event::Is(object)),
        "DELETED" => Ok(Event::Gone(object)),
        "BOOKMARK" => {
            let head: Head = serde_json::from_str(object)
                .map_err(|error| format!("a bookmark is not understood: {error}"))?;
            let metadata = head.metadata.unwrap_or_default();
            let annotations = metadata.annotations.unwrap_or_default();
            Ok(Event::Bookmark {
                version: metadata
                    .resource_version
                    .filter(|version| !version.is_empty())
                    .ok_or("a bookmark has no resourceVersion")?,
                complete: annotations
                    .get(INITIAL_EVENTS_END)
                    .is_some_and(|value| value == "true"),
            })
        }
        "ERROR" => Ok(Event::Refused(
            serde_json::from_str(object).unwrap_or_default(),
        )),
        other => Err(format!("nobody knows events of type {other:?}")),
    }
}

/// The version of an object, if it has one.
pub(super) fn version(object: &str) -> Option<String> {
    let head: Head = serde_json::from_str(object).ok()?;
    let version = head.metadata?.resource_version;
    version.filter(|version| !version.is_empty())
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// Its objects.
    pub(super) items: Vec<&'a RawValue>,
    /// The version of the whole list.
    pub(super) version: String,
    /// With what to ask for the next page; `None`: this is the last.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    metadata: Option<Metadata>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// Reads a page.
///
/// # Errors
/// What is wrong with it.
pub(super) fn page(text: &[u8]) -> Result<Page<'_>, String> {
    let page: RawPage<'_> =
        serde_json::from_slice(text).map_err(|error| format!("a list is not JSON: {error}"))?;
    let metadata = page.metadata.unwrap_or_default();
    Ok(Page {
        items: page.items.unwrap_or_default(),
        version: metadata
            .resource_version
            .filter(|version| !version.is_empty())
            .ok_or("a list has no resourceVersion")?,
        next: metadata.r#continue.filter(|next| !next.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        for kind in ["ADDED", "MODIFIED"] {
            let line = format!(r#"{{"type":"{kind}","object":{{"a": [1]}}}}"#);
            assert!(matches!(
                event(line.as_bytes()),
                Ok(Event::Is(r#"{"a": [1]}"#))
            ));
        }
        assert!(matches!(
            event(br#"{"object":{"a":1},"type":"DELETED"}"#),
            Ok(Event::Gone(r#"{"a":1}"#))
        ));
    }

    #[test]
    fn a_bookmark_has_a_version_and_may_end_a_list() {
        let line =
            br#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"12"}}}"#;
        assert!(matches!(
            event(line),
            Ok(Event::Bookmark { version, complete: false }) if version == "12"
        ));
        let line = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"13",
            "annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(
            event(line),
            Ok(Event::Bookmark { version, complete: true }) if version == "13"
        ));
        assert!(event(br#"{"type":"BOOKMARK","object":{"metadata":{}}}"#).is_err());
    }

    #[test]
    fn an_expired_version_is_told_in_a_watch_and_before_it() {
        let line = br#"{"type":"ERROR","object":{"kind":"Status","status":"Failure",
            "message":"too old resource version: 5 (17)","reason":"Expired","code":410}}"#;
        let Ok(Event::Refused(refusal)) = event(line) else {
            panic!("an error is a refusal");
        };
        assert!(refusal.is_expired());
        assert_eq!(
            refusal.to_string(),
            "410 Expired: too old resource version: 5 (17)"
        );
        assert!(Refusal::read(410, b"").is_expired());
        assert!(!Refusal::read(500, b"{}").is_expired());
    }

    #[test]
    fn a_refusal_says_what_the_server_said() {
        let body = br#"{"message":"pods is forbidden","reason":"Forbidden","code":403}"#;
        assert_eq!(
            Refusal::read(403, body).to_string(),
            "403 Forbidden: pods is forbidden"
        );
        assert_eq!(
            Refusal::read(502, b" bad gateway\n").to_string(),
            "502: bad gateway"
        );
        let body = br#"{"code":429,"details":{"retryAfterSeconds":7}}"#;
        assert_eq!(Refusal::read(429, body).retry_after(), Some(7));
    }

    #[test]
    fn half_an_event_and_nonsense_are_errors() {
        for line in [
            &br#"{"type":"ADDED","object":{"a":"#[..],
            br#"{"type":"ADDED"}"#,
            br#"{"type":"SPLIT","object":{}}"#,
            b"not found",
            b"\xff\xfe",
        ] {
            assert!(event(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_page_has_items_a_version_and_perhaps_a_next_one() {
        let text = br#"{"kind":"PodList","metadata":{"resourceVersion":"9","continue":"t"},
            "items":[{"a":1},{"b":2}]}"#;
        let read = page(text).unwrap();
        let items: Vec<&str> = read.items.iter().map(|item| item.get()).collect();
        assert_eq!(items, [r#"{"a":1}"#, r#"{"b":2}"#]);
        assert_eq!((&*read.version, read.next.as_deref()), ("9", Some("t")));
        let last = page(br#"{"metadata":{"resourceVersion":"9","continue":""},"items":null}"#);
        let last = last.unwrap();
        assert!(last.items.is_empty() && last.next.is_none());
        assert!(page(br#"{"metadata":{"resourceVersion":"9"},"items":[{"a":1"#).is_err());
        assert!(page(br#"{"items":[]}"#).is_err());
    }

    #[test]
    fn an_object_has_a_version() {
        let object = r#"{"spec":{"metadata":1},"metadata":{"resourceVersion":"5","name":"x"}}"#;
        assert_eq!(version(object).as_deref(), Some("5"));
        assert_eq!(version(r#"{"metadata":{}}"#), None);
    }
}
