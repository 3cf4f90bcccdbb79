//! Which files count, and that only what is new is parsed.

use super::*;

#[test]
fn every_visible_manifest_below_the_folder_counts() {
    let folder = Folder::new();
    folder.write("a.yaml", policy("a", 1));
    folder.write("deep/er/b.yml", policy("b", 2));
    folder.write(
        "c.json",
        r#"{"kind":"Pod","metadata":{"name":"c"},"status":{"podIP":"10.0.0.3"}}"#,
    );
    folder.write("d.txt", policy("d", 4));
    folder.write(".hidden.yaml", policy("e", 5));
    folder.write(".hidden/f.yaml", policy("f", 6));
    folder.write("g.yaml~", policy("g", 7));
    let reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:1", "b:2", "c@10.0.0.3"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn a_file_may_have_several_documents_and_lists() {
    let folder = Folder::new();
    let list = "apiVersion: v1\nkind: List\nitems:\n\
                - {apiVersion: v1, kind: Pod, metadata: {name: p1}, status: {podIP: 10.0.0.1}}\n\
                - {apiVersion: v1, kind: Pod, metadata: {name: p2}, status: {podIP: 10.0.0.2}}\n";
    let text = [&policy("a", 1), list, "# nothing\n", &policy("b", 2)].join("---\n");
    folder.write("all.yaml", text);
    let reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:1", "b:2", "p1@10.0.0.1", "p2@10.0.0.2"]);
}

#[test]
fn a_mounted_config_map_is_read_through_its_links() {
    let folder = Folder::new();
    folder.write("..2026_1/a.yaml", policy("a", 1));
    folder.write("..2026_1/b.yaml", policy("b", 1));
    folder.link("..2026_1", "..data");
    folder.link("..data/a.yaml", "a.yaml");
    folder.link("..data/b.yaml", "b.yaml");
    let mut reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:1", "b:1"]);

    folder.write("..2026_2/a.yaml", policy("a", 2));
    folder.write("..2026_2/b.yaml", policy("b", 2));
    folder.link("..2026_2", "..data_tmp");
    assert!(reader.look().is_empty());
    std::fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    assert_eq!(reader.look().policies.len(), 2);
    assert_eq!(reader.sees(), ["a:2", "b:2"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn links_in_circles_end_and_a_file_with_two_paths_is_one() {
    let folder = Folder::new();
    folder.write("sub/a.yaml", policy("a", 1));
    folder.link(".", "sub/again");
    folder.link("..", "sub/up");
    folder.link("sub", "z");
    folder.link("sub/a.yaml", "b.yaml");
    let reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:1"]);
    assert_eq!(reader.diagnostics, []);
}

#[test]
fn a_link_leads_out_of_the_folder() {
    let (folder, other) = (Folder::new(), Folder::new());
    other.write("x/a.yaml", policy("a", 1));
    folder.link(other.path("x"), "linked");
    let reader = Reader::new(&folder);
    assert_eq!(reader.sees(), ["a:1"]);
}

#[test]
fn one_change_is_one_change_and_no_change_is_none() {
    let folder = Folder::new();
    folder.write("a.yaml", policy("a", 1));
    folder.write("b.yaml", policy("b", 1));
    let mut reader = Reader::new(&folder);
    assert!(reader.look().is_empty());
    folder.write("a.yaml", policy("a", 2));
    folder.write("c.yaml", pod("c", "10.0.0.1"));
    folder.remove("b.yaml");
    let changes = reader.look();
    assert_eq!((changes.policies.len(), changes.pods.len()), (2, 1));
    assert_eq!(reader.sees(), ["a:2", "c@10.0.0.1"]);
}

#[test]
fn a_change_of_the_same_size_at_the_same_time_is_seen() {
    let folder = Folder::new();
    folder.write("a.yaml", policy("a", 1));
    let mut reader = Reader::new(&folder);
    for port in [2, 3, 4, 5] {
        folder.write("a.yaml", policy("a", port));
        reader.look();
        assert_eq!(reader.sees(), [format!("a:{port}")]);
    }
}

#[test]
fn an_object_that_moves_to_another_file_does_not_change() {
    let folder = Folder::new();
    folder.write("a.yaml", policy("a", 1));
    let mut reader = Reader::new(&folder);
    std::fs::rename(folder.path("a.yaml"), folder.path("b.yaml")).unwrap();
    assert!(reader.look().is_empty());
    assert_eq!(reader.sees(), ["a:1"]);
}

#[test]
fn roots_may_be_files_of_any_name() {
    let folder = Folder::new();
    folder.write("policies", policy("a", 1));
    folder.write("more/b.yaml", policy("b", 2));
    let roots = vec![folder.path("policies"), folder.path("more")];
    let reader = Reader::of(Manifests::new(roots.clone()));
    assert_eq!(reader.sees(), ["a:1", "b:2"]);
    assert_eq!(read(&roots).events.len(), 6 * 2 + 2);
}

#[test]
fn other_kinds_are_counted_and_foreign_policies_are_a_warning() {
    let folder = Folder::new();
    let object = |version: &str, kind: &str| {
        format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n")
    };
    let text = [
        object("apps/v1", "Deployment"),
        object("v1", "Secret"),
        object("apps/v1", "Deployment"),
        object("cilium.io/v2", "CiliumNetworkPolicy"),
    ];
    folder.write("a.yaml", text.concat());
    let reader = Reader::new(&folder);
    assert!(reader.sees().is_empty());
    let infos = reader.found(Severity::Info);
    assert_eq!(infos, ["a.yaml - apps/v1/Deployment", "a.yaml - v1/Secret"]);
    let warnings = reader.found(Severity::Warning);
    assert_eq!(warnings, ["a.yaml - cilium.io/v2/CiliumNetworkPolicy"]);
    let all: Vec<_> = reader.diagnostics.iter().map(|d| &*d.message).collect();
    assert!(all.contains(&"2 objects ignored: policy has no use for the kind"));
}

#[test]
fn threads_do_not_change_the_result() {
    let folder = Folder::new();
    let mut text = String::new();
    for i in 0..2_000_u16 {
        let [high, low] = i.to_be_bytes();
        text += &format!(
            "---\n{}",
            pod(&format!("p{i}"), &format!("10.0.{high}.{low}"))
        );
        if i % 100 == 0 {
            text += "---\nkind: Pod\nmetadata: {name: [}\n";
        }
    }
    folder.write("many.yaml", text);
    let reader = Reader::new(&folder);
    assert_eq!(reader.store.pods().len(), 2_000);
    assert_eq!(reader.errors().len(), 20);
    let again = Reader::new(&folder);
    assert_eq!(
        (again.store, again.diagnostics),
        (reader.store, reader.diagnostics)
    );
}
