//! What cannot be read changes nothing of what is in force.

use super::*;

/// A folder with two files that are in force: policy `a`, and policy `b` with pod
/// `p`.
fn in_force() -> (Folder, Reader) {
    let folder = Folder::new();
    folder.write("a.yaml", policy("a", 1));
    folder.write(
        "b.yaml",
        [policy("b", 2), pod("p", "10.0.0.1")].join("---\n"),
    );
    let reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:1", "b:2", "p@10.0.0.1"]);
    (folder, reader)
}

/// Asserts that nothing changed, and which errors there are.
#[track_caller]
fn unchanged(reader: &mut Reader, errors: &[&str]) {
    assert!(reader.look().is_empty());
    assert_eq!(reader.errors(), errors);
}

#[test]
fn a_manifest_that_does_not_parse_keeps_its_objects() {
    let (folder, mut reader) = in_force();
    for (text, line) in [
        ("a: [", 1),
        ("kind: NetworkPolicy\nmetadata: {name: a", 2),
        ("a: b: c\n", 1),
        ("a: 1\na: 2\n", 2),
        ("a: *nobody\n", 1),
    ] {
        folder.write("a.yaml", text);
        unchanged(&mut reader, &[&format!("a.yaml - line {line}")]);
    }
    folder.write("a.yaml", policy("a", 9));
    reader.look();
    assert_eq!(reader.sees(), ["a:9", "b:2", "p@10.0.0.1"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn a_document_that_does_not_parse_leaves_the_others_of_its_file() {
    let (folder, mut reader) = in_force();
    let text = [pod("p", "10.0.0.2"), "x: [\n".to_owned(), policy("c", 3)].join("---\n");
    folder.write("b.yaml", text);
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "b:2", "c:3", "p@10.0.0.2"]);
    assert_eq!(reader.errors(), ["b.yaml - line 9"]);
    let message = &reader.diagnostics[0].message;
    assert!(
        message.ends_with("defined before stays in force"),
        "{message}"
    );
    // As soon as all of it can be read, what is not in it is gone.
    folder.write("b.yaml", policy("c", 3));
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "c:3"]);
}

#[test]
fn a_file_that_is_no_text_keeps_its_objects() {
    let (folder, mut reader) = in_force();
    folder.write("a.yaml", b"kind: \xff\xfe");
    unchanged(&mut reader, &["a.yaml - "]);
    assert!(reader.diagnostics[0].message.contains("it is not text"));
    folder.write("a.yaml", b"kind: \0");
    unchanged(&mut reader, &["a.yaml - line 1"]);
}

#[test]
fn a_folder_in_place_of_a_file_keeps_its_objects() {
    let (folder, mut reader) = in_force();
    folder.remove("a.yaml");
    folder.write("a.yaml/c.yaml", policy("c", 3));
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "b:2", "c:3", "p@10.0.0.1"]);
    assert_eq!(reader.errors(), ["a.yaml - "]);
    folder.remove("a.yaml/c.yaml");
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "b:2", "p@10.0.0.1"]);
    std::fs::remove_dir(folder.path("a.yaml")).unwrap();
    reader.look();
    assert_eq!(reader.sees(), ["b:2", "p@10.0.0.1"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn a_link_that_leads_nowhere_keeps_the_objects_of_its_file() {
    let (folder, mut reader) = in_force();
    folder.remove("a.yaml");
    folder.link("nowhere", "a.yaml");
    unchanged(&mut reader, &["a.yaml - "]);
    let expected = "cannot be read: No such file or directory; \
                    the object that it defined stays in force as it was";
    assert_eq!(reader.diagnostics[0].message, expected);
    folder.remove("a.yaml");
    folder.link("a.yaml", "a.yaml");
    unchanged(&mut reader, &["a.yaml - "]);
}

#[test]
fn a_pipe_and_a_socket_keep_the_objects_of_their_file() {
    let (folder, mut reader) = in_force();
    folder.remove("a.yaml");
    let path = folder.path("a.yaml");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    unchanged(&mut reader, &["a.yaml - "]);
    folder.remove("a.yaml");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    unchanged(&mut reader, &["a.yaml - "]);
}

#[test]
fn a_file_that_vanishes_takes_its_objects_with_it() {
    let (folder, mut reader) = in_force();
    folder.remove("b.yaml");
    let changes = reader.look();
    assert_eq!((changes.policies.len(), changes.pods.len()), (1, 1));
    assert_eq!(reader.sees(), ["a:1"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn a_folder_that_vanishes_keeps_everything() {
    let (folder, mut reader) = in_force();
    let aside = folder.0.with_extension("aside");
    std::fs::rename(&folder.0, &aside).unwrap();
    assert!(reader.look().is_empty());
    assert_eq!(reader.sees(), ["a:1", "b:2", "p@10.0.0.1"]);
    assert_eq!(reader.diagnostics.len(), 1);
    assert_eq!(reader.diagnostics[0].object, folder.0.display().to_string());
    let message = &reader.diagnostics[0].message;
    assert!(message.ends_with("the 3 objects that it defined stay in force as they were"));
    std::fs::write(&folder.0, "").unwrap();
    reader.look();
    assert!(
        reader.sees().is_empty(),
        "an empty file is a root without objects"
    );
    std::fs::remove_file(&folder.0).unwrap();
    std::fs::rename(&aside, &folder.0).unwrap();
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "b:2", "p@10.0.0.1"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn a_folder_that_never_was_is_no_empty_folder() {
    let folder = Folder::new();
    let missing = vec![folder.path("missing")];
    let mut reader = Reader::of(Manifests::new(missing.clone()));
    let policies = policy_core::store::Kind::Policy("NetworkPolicy".into());
    assert!(!reader.store.is_ready(&policies));
    assert_eq!(reader.diagnostics.len(), 1);
    assert_eq!(read(&missing).events, []);
    folder.write("missing/a.yaml", policy("a", 1));
    reader.look();
    assert!(reader.store.is_ready(&policies));
    assert_eq!(reader.sees(), ["a:1"]);
}

#[test]
fn an_empty_folder_is_ready() {
    let reader = Reader::new(&Folder::new());
    assert!(reader.store.is_ready(&policy_core::store::Kind::Pod));
    assert!(reader.store.is_ready(&policy_core::store::Kind::Node));
}

#[test]
fn a_folder_below_that_leads_nowhere_keeps_what_was_in_it() {
    let (folder, other) = (Folder::new(), Folder::new());
    other.write("x/a.yaml", policy("a", 1));
    folder.link(other.path("x"), "linked");
    let mut reader = Reader::new(&folder);
    std::fs::rename(other.path("x"), other.path("y")).unwrap();
    unchanged(&mut reader, &["linked - "]);
    folder.remove("linked");
    reader.look();
    assert!(reader.sees().is_empty());
}

#[test]
fn one_object_in_two_files_stays_as_it_was() {
    let (folder, mut reader) = in_force();
    folder.write("c.yaml", policy("a", 9));
    unchanged(
        &mut reader,
        &["NetworkPolicy default/a a.yaml metadata.name"],
    );
    let message = reader.diagnostics[0]
        .message
        .replace(&format!("{}/", folder.0.display()), "");
    let expected = "it is defined in a.yaml and in c.yaml; \
                    what was in force before stays; keep one of them";
    assert_eq!(message, expected);
    // Also when the first of them changes, and when a second object comes along.
    folder.write("a.yaml", policy("a", 8));
    unchanged(
        &mut reader,
        &["NetworkPolicy default/a a.yaml metadata.name"],
    );
    folder.remove("a.yaml");
    reader.look();
    assert_eq!(reader.sees(), ["a:9", "b:2", "p@10.0.0.1"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn one_object_twice_in_one_file_stays_as_it_was() {
    let (folder, mut reader) = in_force();
    folder.write("a.yaml", [policy("a", 8), policy("a", 9)].join("---\n"));
    unchanged(
        &mut reader,
        &["NetworkPolicy default/a a.yaml metadata.name"],
    );
    let message = &reader.diagnostics[0].message;
    assert!(
        message.starts_with("it is defined 2 times in "),
        "{message}"
    );
}

#[test]
fn two_files_that_say_the_same_are_a_warning() {
    let (folder, mut reader) = in_force();
    folder.write("c.yaml", policy("a", 1));
    unchanged(&mut reader, &[]);
    let warnings = reader.found(Severity::Warning);
    assert_eq!(warnings, ["NetworkPolicy default/a a.yaml metadata.name"]);
}

#[test]
fn a_policy_in_two_files_from_the_start_isolates() {
    let folder = Folder::new();
    let egress = "kind: NetworkPolicy\nmetadata: {name: a}\n\
                  spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}\n";
    folder.write("a.yaml", policy("a", 1));
    folder.write("b.yaml", egress);
    folder.write("c.yaml", pod("p", "10.0.0.1"));
    folder.write("d.yaml", pod("p", "10.0.0.2"));
    let mut reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:", "p@10.0.0.1"]);
    let policy = reader.store.policies().values().next().unwrap().clone();
    assert_eq!(
        policy.subject.pods,
        policy_core::model::Selector::EVERYTHING
    );
    assert_eq!(policy.ingress.as_deref(), Some(&[][..]));
    assert_eq!(policy.egress.as_deref(), Some(&[][..]));
    assert_eq!(reader.errors().len(), 2);
    folder.remove("b.yaml");
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "p@10.0.0.1"]);
}

#[test]
fn a_file_that_is_unreadable_still_claims_its_objects() {
    let (folder, mut reader) = in_force();
    folder.write("a.yaml", b"\xff");
    folder.write("c.yaml", policy("a", 9));
    let errors = ["NetworkPolicy default/a a.yaml metadata.name", "a.yaml - "];
    unchanged(&mut reader, &errors);
}

#[test]
fn an_object_that_does_not_decode_keeps_its_last_good_version() {
    let (folder, mut reader) = in_force();
    folder.write("a.yaml", policy("a", 9).replace("port: 9", "port: true"));
    let path = "spec.ingress[0].ports[0].port";
    unchanged(
        &mut reader,
        &[&format!("NetworkPolicy default/a a.yaml {path}")],
    );
    let bad_pod = "kind: Pod\nmetadata: {name: p}\nstatus: {podIPs: 10.0.0.9}\n";
    folder.write("b.yaml", [policy("b", 3), bad_pod.to_owned()].join("---\n"));
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "b:3", "p@10.0.0.1"]);
    // It may also move to another file while it does not decode.
    std::fs::rename(folder.path("a.yaml"), folder.path("z.yaml")).unwrap();
    reader.look();
    assert_eq!(reader.sees(), ["a:1", "b:3", "p@10.0.0.1"]);
}

#[test]
fn an_object_that_decodes_replaces_the_old_one_and_what_is_bad_allows_nothing() {
    let (folder, mut reader) = in_force();
    folder.write("a.yaml", policy("a", 9).replace("port: 9", "port: 99999"));
    reader.look();
    assert_eq!(
        reader.sees(),
        ["a:Of([])", "b:2", "p@10.0.0.1"].map(|s| s.replace("Of([])", "[]"))
    );
    assert_eq!(reader.errors().len(), 1);
}

#[test]
fn an_object_that_never_decoded_is_closed() {
    let folder = Folder::new();
    folder.write("a.yaml", policy("a", 9).replace("port: 9", "port: true"));
    folder.write("b.yaml", "kind: Pod\nmetadata: {name: p}\nspec: 7\n");
    let reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:[]"]);
    assert_eq!(reader.errors().len(), 2);
}

#[test]
fn what_has_no_name_keeps_what_its_file_held() {
    let (folder, mut reader) = in_force();
    let nameless = policy("a", 9).replace("name: a", "nam: a");
    folder.write("a.yaml", nameless);
    unchanged(&mut reader, &["NetworkPolicy a.yaml metadata.name"]);
    folder.write("a.yaml", "- 1\n");
    unchanged(&mut reader, &["object a.yaml kind"]);
    assert!(
        reader.diagnostics[0]
            .message
            .ends_with("(document at line 1)")
    );
}
