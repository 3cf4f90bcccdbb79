//! Writes a generated cluster as manifests, with probes and the reference evaluator's answers.
//!
//! `gen-cluster --random --seed 1 DIR` or `gen-cluster --size small --seed 1 DIR`; `--probes N`
//! says how many (default 1000). DIR gets one `List` a kind (`*.json`), `probes.jsonl`,
//! `answers.jsonl` (the probes' fields and `verdict`), and for a size `events.jsonl`. The
//! histogram of what decided goes to standard output.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use policy_tests::generate::{
    Change, Shape, Size, event_trace, random_cluster, random_probes, scale_cluster,
};
use policy_tests::reference::{Cluster, Histogram};
use serde_json::{Value, json};

const USAGE: &str =
    "usage: gen-cluster (--random | --size small|medium|large) [--seed N] [--probes N] DIR";

struct Options {
    size: Option<Size>,
    seed: u64,
    probes: usize,
    directory: PathBuf,
}

fn main() -> ExitCode {
    match options().and_then(|options| write(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gen-cluster: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options> {
    let (mut size, mut random, mut seed, mut probes, mut directory) = (None, false, 1, 1000, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} wants a value\n{USAGE}"))
        };
        match word.as_str() {
            "--random" => random = true,
            "--seed" => seed = value()?.parse().context("--seed wants a number")?,
            "--probes" => probes = value()?.parse().context("--probes wants a number")?,
            "--size" => {
                let name = value()?;
                size =
                    Some(Size::from_name(&name).with_context(|| format!("size {name}\n{USAGE}"))?);
            }
            option if option.starts_with('-') => bail!("{option} is not an option\n{USAGE}"),
            path => directory = Some(PathBuf::from(path)),
        }
    }
    if random == size.is_some() {
        bail!("say either --random or --size\n{USAGE}");
    }
    Ok(Options {
        size,
        seed,
        probes,
        directory: directory.context(USAGE)?,
    })
}

fn write(options: &Options) -> Result<()> {
    let directory = &options.directory;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let objects = match options.size {
        Some(size) => scale_cluster(size, options.seed),
        None => random_cluster(options.seed, &Shape::default()),
    };
    for kind in ["Node", "Namespace", "Pod", "NetworkPolicy"] {
        let items: Vec<&Value> = objects.iter().filter(|o| o["kind"] == kind).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        lines(
            &directory.join(format!("{}.json", kind.to_lowercase())),
            [list],
        )?;
    }
    let cluster = Cluster::from_objects(&objects);
    let probes = random_probes(options.seed, &objects, options.probes);
    lines(
        &directory.join("probes.jsonl"),
        probes.iter().map(|probe| probe.to_json()),
    )?;
    let mut answers = Vec::with_capacity(probes.len());
    for probe in &probes {
        let mut line = probe.to_json();
        let allowed = cluster.verdict(probe)?.allowed;
        line["verdict"] = json!(if allowed { "allow" } else { "deny" });
        answers.push(line);
    }
    lines(&directory.join("answers.jsonl"), answers)?;
    if let Some(size) = options.size {
        let events = event_trace(size, options.seed, &objects, size.scale().events);
        let events = events.into_iter().map(|event| match event.change {
            Change::Apply(object) => json!({"apply": object}),
            Change::Delete(object) => json!({"delete": object}),
        });
        lines(&directory.join("events.jsonl"), events)?;
    }
    print!("{}", Histogram::of(&cluster, &probes)?);
    Ok(())
}

fn lines(path: &Path, values: impl IntoIterator<Item = Value>) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    for value in values {
        writeln!(out, "{value}").with_context(|| format!("write {}", path.display()))?;
    }
    out.flush()
        .with_context(|| format!("write {}", path.display()))
}
