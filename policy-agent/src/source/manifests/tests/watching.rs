//! Being told of changes, and waiting until they are complete.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use super::*;

/// Longer than any of this takes, in seconds.
const BOUND_SECS: u64 = 20;

fn run(test: impl AsyncFnOnce(Folder)) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(test(Folder::new()));
}

fn watched(folder: &Folder) -> Reader {
    Reader::of(Manifests::watched(vec![folder.0.clone()]))
}

/// Looks whenever told to, until these are seen. Being told in time is part of
/// it: the slow look that nobody asked for comes too late.
async fn until(reader: &mut Reader, expected: &[&str]) {
    let told = tokio::time::timeout(Duration::from_secs(UNTOLD_SECS / 2), async {
        while reader.sees() != expected {
            reader.manifests.changed().await;
            reader.look();
        }
    });
    let result = told.await;
    assert!(result.is_ok(), "{:?} became {expected:?}", reader.sees());
}

/// Asserts that nothing calls for a look for a while.
async fn quiet(reader: &mut Reader) {
    let quiet = Duration::from_millis(DEBOUNCE_MILLIS * 20);
    let told = tokio::time::timeout(quiet, reader.manifests.changed()).await;
    assert!(told.is_err(), "nothing changed");
}

const DEBOUNCE_MILLIS: u64 = 5;

#[test]
fn files_that_come_change_and_go_are_told() {
    run(async |folder| {
        let mut reader = watched(&folder);
        quiet(&mut reader).await;
        folder.write("a.yaml", policy("a", 1));
        until(&mut reader, &["a:1"]).await;
        folder.write("a.yaml", policy("a", 2));
        until(&mut reader, &["a:2"]).await;
        folder.write(".b.tmp", policy("b", 3));
        std::fs::rename(folder.path(".b.tmp"), folder.path("b.yaml")).unwrap();
        until(&mut reader, &["a:2", "b:3"]).await;
        std::fs::rename(folder.path("b.yaml"), folder.path("b.old")).unwrap();
        until(&mut reader, &["a:2"]).await;
        folder.remove("a.yaml");
        until(&mut reader, &[]).await;
        quiet(&mut reader).await;
    });
}

#[test]
fn new_folders_are_watched_at_once() {
    run(async |folder| {
        let mut reader = watched(&folder);
        folder.write("x/y/a.yaml", policy("a", 1));
        until(&mut reader, &["a:1"]).await;
        folder.write("x/y/a.yaml", policy("a", 2));
        until(&mut reader, &["a:2"]).await;
        std::fs::remove_dir_all(folder.path("x")).unwrap();
        until(&mut reader, &[]).await;
    });
}

#[test]
fn the_swap_of_a_config_map_is_one_change() {
    run(async |folder| {
        folder.write("..1/a.yaml", policy("a", 1));
        folder.write("..1/b.yaml", policy("b", 1));
        folder.link("..1", "..data");
        folder.link("..data/a.yaml", "a.yaml");
        folder.link("..data/b.yaml", "b.yaml");
        let mut reader = watched(&folder);
        for round in 2..6 {
            let name = format!("..{round}");
            folder.write(&format!("{name}/a.yaml"), policy("a", round));
            folder.write(&format!("{name}/b.yaml"), policy("b", round));
            folder.link(&name, "..data_tmp");
            std::fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
            std::fs::remove_dir_all(folder.path(&format!("..{}", round - 1))).unwrap();
            let expected = [format!("a:{round}"), format!("b:{round}")];
            until(&mut reader, &expected.each_ref().map(String::as_str)).await;
            assert_eq!(reader.diagnostics, []);
        }
    });
}

#[test]
fn what_a_link_leads_to_is_watched_and_every_link_on_the_way() {
    run(async |folder| {
        let other = Folder::new();
        other.write("v1/a.yaml", policy("a", 1));
        other.write("v2/a.yaml", policy("a", 2));
        other.link("v1", "current");
        folder.link(other.path("current/a.yaml"), "a.yaml");
        let mut reader = watched(&folder);
        other.write("v1/a.yaml", policy("a", 3));
        until(&mut reader, &["a:3"]).await;
        other.link("v2", "next");
        std::fs::rename(other.path("next"), other.path("current")).unwrap();
        until(&mut reader, &["a:2"]).await;
        // What is beside it is none of our business.
        other.write("v2/b.yaml", policy("b", 1));
        quiet(&mut reader).await;
    });
}

#[test]
fn a_file_that_is_being_written_counts_when_it_is_closed() {
    run(async |folder| {
        folder.write("a.yaml", policy("a", 1));
        let mut reader = watched(&folder);
        let started = Instant::now();
        // Truncated first, as by a shell's redirection.
        let mut file = File::create(folder.path("a.yaml")).unwrap();
        let text = [policy("a", 2), policy("b", 2)].join("---\n");
        let (head, tail) = text.split_at(text.len() / 2 + 10);
        for part in [head, ""] {
            file.write_all(part.as_bytes()).unwrap();
            // Something else calls for a look meanwhile.
            folder.write("other.yaml", pod("p", "10.0.0.1"));
            until(&mut reader, &["a:1", "p@10.0.0.1"]).await;
            assert_eq!(reader.found(Severity::Info), ["a.yaml - "]);
            folder.remove("other.yaml");
            until(&mut reader, &["a:1"]).await;
        }
        // Only holds as long as writing counts as such.
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "too slow to tell"
        );
        file.write_all(tail.as_bytes()).unwrap();
        drop(file);
        until(&mut reader, &["a:2", "b:2"]).await;
    });
}

#[test]
fn a_file_that_is_never_closed_counts_after_a_while() {
    run(async |folder| {
        folder.write("a.yaml", policy("a", 1));
        let mut reader = watched(&folder);
        let mut file = File::create(folder.path("a.yaml")).unwrap();
        file.write_all(policy("a", 2).as_bytes()).unwrap();
        until(&mut reader, &["a:2"]).await;
        drop(file);
    });
}

#[test]
fn changes_made_together_are_one_change() {
    run(async |folder| {
        folder.write("a.yaml", policy("a", 1));
        folder.write("b.yaml", policy("b", 1));
        let mut reader = watched(&folder);
        for round in 2..22 {
            folder.write("a.yaml", policy("a", round));
            folder.write("b.yaml", policy("b", round));
            reader.manifests.changed().await;
            assert_eq!(reader.look().policies.len(), 2);
        }
    });
}

#[test]
fn a_folder_that_comes_back_is_read_again() {
    run(async |folder| {
        folder.write("in/a.yaml", policy("a", 1));
        let root = folder.path("in");
        let mut reader = Reader::of(Manifests::watched(vec![root.clone()]));
        std::fs::rename(&root, folder.path("aside")).unwrap();
        let gone = tokio::time::timeout(Duration::from_secs(BOUND_SECS), async {
            while reader.diagnostics.is_empty() {
                reader.manifests.changed().await;
                reader.look();
            }
        });
        assert!(gone.await.is_ok());
        assert_eq!(reader.sees(), ["a:1"]);
        folder.write("new/a.yaml", policy("a", 2));
        std::fs::rename(folder.path("new"), &root).unwrap();
        until(&mut reader, &["a:2"]).await;
        assert_eq!(reader.diagnostics, []);
        folder.write("in/b.yaml", policy("b", 3));
        until(&mut reader, &["a:2", "b:3"]).await;
    });
}

#[test]
fn a_look_sees_everything_that_was_complete_before_it() {
    run(async |folder| {
        let mut reader = watched(&folder);
        for round in 1..200 {
            folder.write("sub/a.yaml", policy("a", round));
            reader.look();
            assert_eq!(reader.sees(), [format!("a:{round}")]);
            if round % 10 == 0 {
                std::fs::remove_dir_all(folder.path("sub")).unwrap();
                reader.look();
                assert!(reader.sees().is_empty());
            }
        }
    });
}

#[test]
fn a_writer_in_a_loop_never_shows_half_a_file() {
    run(async |folder| {
        let text = |port| [policy("a", port), policy("b", port)].join("---\n");
        folder.write("a.yaml", text(1));
        let mut reader = watched(&folder);
        let path = folder.path("a.yaml");
        let writer = std::thread::spawn(move || {
            for port in 2..400 {
                std::fs::write(&path, text(port)).unwrap();
            }
        });
        while !writer.is_finished() {
            reader.look();
            assert_eq!(reader.store.policies().len(), 2);
            assert!(reader.errors().is_empty(), "{:?}", reader.diagnostics);
        }
        writer.join().unwrap();
        until(&mut reader, &["a:399", "b:399"]).await;
    });
}
