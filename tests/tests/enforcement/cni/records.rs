//! Without the plugin: the records of the CNI library.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Wiring, wait_for};
use serde_json::Value;

use super::caller::Sandbox;
use super::{Scene, awaited, ensure_nothing_arrived, flood, in_force, reaches};
use crate::expect::serve;
use crate::node::BOUND;

fn until(scene: &Scene, what: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
    let seen = || scene.status().is_ok_and(|status| done(&status));
    wait_for(what, BOUND, seen).with_context(|| format!("{:#?}", scene.status()))?;
    scene.status()
}

#[test]
fn a_record_tells_of_a_pod_before_its_object_has_an_address() -> Result<()> {
    let mut scene = Scene::new("cni-records", Wiring::Routed)?;
    scene.start("hold")?;
    let folder = scene.node.lab.dir().join("results");
    let stranger = scene.stranger.clone();
    let (db, (denied, _server)) = scene.wire("shop/db", |db| {
        Ok((flood(&stranger, db, 8_000)?, serve(db)?))
    })?;
    ensure!(!reaches(&scene.web, &db)?, "nobody knows it yet");
    scene.show_without_address(&db, "uid-db")?;

    // The folder comes with the first pod; a record is not written at once.
    let (file, text) = Sandbox::of(&db, "uid-db").record()?;
    fs::create_dir(&folder)?;
    let mut record = File::create(folder.join(&file))?;
    let (one, other) = text.split_at(text.len() / 2);
    record.write_all(one.as_bytes())?;
    record.write_all(other.as_bytes())?;
    drop(record);
    until(&scene, "the policies", |status| in_force(status, "shop/db"))?;
    ensure!(reaches(&scene.web, &db)? && !reaches(&scene.stranger, &db)?);
    ensure_nothing_arrived(denied)?;

    // Of a pod whose object nobody knows, and of no pod that is here.
    let (late, _server) = scene.wire("shop/late", serve)?;
    let (file, text) = Sandbox::of(&late, "uid-late").record()?;
    fs::write(folder.join(&file), &text)?;
    fs::write(
        folder.join("lab-gone-eth0"),
        text.replace("c0ffee", "gone")
            .replace("10.", "11.")
            .replace("fd10", "fd11"),
    )?;
    fs::write(folder.join("lab-half-eth0"), &text[..20])?;
    let status = until(&scene, "the record", |status| {
        awaited(status) == ["shop/late"]
            && status["diagnostics"].to_string().contains("lab-half-eth0")
    })?;
    ensure!(status["healthy"] == true, "{status}");
    ensure!(!reaches(&scene.web, &late)?, "held");

    // A restart reads them again; what is deleted is taken back.
    scene.node.agent().kill()?;
    let status = scene.start("hold")?;
    ensure!(
        awaited(&status) == ["shop/late"] && in_force(&status, "shop/db"),
        "{status}"
    );
    ensure!(!reaches(&scene.web, &late)? && reaches(&scene.web, &db)?);
    fs::remove_file(folder.join(&file))?;
    fs::remove_file(folder.join("lab-half-eth0"))?;
    let status = until(&scene, "the deletion", |status| {
        awaited(status).is_empty() && !status["diagnostics"].to_string().contains("lab-half-eth0")
    })?;
    ensure!(in_force(&status, "shop/db"), "{status}");
    ensure!(!reaches(&scene.web, &late)?, "unknown again, and so held");
    scene.node.finish()
}
