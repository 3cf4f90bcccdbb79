//! Upstream's NetworkPolicy specs against the cluster, and what came of them.
//!
//! A spec probes a matrix of pods; if any cell is wrong it probes the whole
//! matrix once more before it fails. Here the second try is a failure as well: it
//! means that a policy came late, or that a packet was lost.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::lab::Lab;
use crate::job::{Job, announce};

const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
const DRY_RUN: Duration = Duration::from_secs(60);
/// Specs that open SCTP connections, by their label: they need SCTP sockets
/// (CONFIG_IP_SCTP), and fail on a kernel without them whoever enforces.
const NEEDS_SCTP: &str = "SCTPConnectivity";
/// Upstream's words in the log of a spec that probes a second time.
const SECOND_TRY: &str = "(SECOND TRY)";
/// Of the specs in the order of their names, `--third` takes each that leaves
/// this remainder.
const THIRD: usize = 1;

#[derive(clap::Args)]
pub(crate) struct Selection {
    /// Only specs whose full name matches this regular expression
    #[arg(long, value_name = "REGEX", default_value = "Netpol")]
    focus: String,
    /// Every third of the selected specs, in the order of their names
    #[arg(long)]
    third: bool,
    /// Also the three specs that need SCTP sockets
    #[arg(long)]
    sctp: bool,
    /// So many specs at a time
    #[arg(long, value_name = "N", default_value_t = 3)]
    procs: u8,
}

/// One spec that ran.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    name: String,
    passed: bool,
    seconds: u64,
    /// The first line of what it failed for.
    failure: String,
    /// How often it probed a matrix again.
    second_tries: usize,
}

/// Runs the selected specs; keeps report and log in target/cluster/e2e.
///
/// # Errors
///
/// When a spec fails, or probed twice, or none ran.
pub(super) fn run(lab: &Lab, selection: &Selection) -> Result<()> {
    announce("cluster: upstream's NetworkPolicy specs");
    let out = lab.root.join("e2e");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;

    let names = select(lab, selection, &out)?;
    ensure!(
        !names.is_empty(),
        "no spec has a name that matches {:?}",
        selection.focus
    );
    println!("    {} specs, {} at a time", names.len(), selection.procs);
    let start = Instant::now();
    let report = out.join("report.json");
    let mut ginkgo = lab.in_control(lab.bin("ginkgo"));
    ginkgo
        .args(["--no-color", "--timeout", "2h", "--procs"])
        .arg(selection.procs.to_string());
    if selection.third || selection.focus != Selection::EVERYTHING {
        for name in &names {
            ginkgo.arg("--focus").arg(format!("{}$", quote(name)));
        }
    }
    skip(&mut ginkgo, selection, "");
    ginkgo.args(["--json-report", "report.json", "--output-dir"]);
    ginkgo.arg(&out).arg(lab.bin("netpol.test")).arg("--");
    framework(&mut ginkgo, lab);
    let ran = Job::new("the specs", ginkgo, LIMIT)
        .log_to(out.join("log"))
        .run();
    // Ginkgo fails when a spec does; the report says more.
    let specs = match fs::read_to_string(&report) {
        Ok(text) => read_report(&text)?,
        Err(_) => return ran.and_then(|()| bail!("ginkgo wrote no {}", report.display())),
    };
    summarise(&specs, start.elapsed(), &out)?;
    ensure!(
        specs.len() == names.len(),
        "{} specs were selected, but {} ran; see {}",
        names.len(),
        specs.len(),
        out.join("log").display()
    );
    ran
}

impl Selection {
    /// The focus that leaves nothing out.
    const EVERYTHING: &str = "Netpol";
}

/// The names of the specs to run, in order.
fn select(lab: &Lab, selection: &Selection, out: &Path) -> Result<Vec<String>> {
    let report = out.join("names.json");
    let mut specs = lab.in_control(lab.bin("netpol.test"));
    specs
        .arg("--ginkgo.dry-run")
        .arg(format!("--ginkgo.focus={}", selection.focus))
        .arg(format!("--ginkgo.json-report={}", report.display()));
    skip(&mut specs, selection, "ginkgo.");
    framework(&mut specs, lab);
    Job::new("listing the specs", specs, DRY_RUN)
        .log_to(out.join("names.log"))
        .run()?;
    let text =
        fs::read_to_string(&report).with_context(|| format!("cannot read {}", report.display()))?;
    let mut names: Vec<String> = read_report(&text)?
        .into_iter()
        .map(|spec| spec.name)
        .collect();
    names.sort();
    Ok(if selection.third { third(names) } else { names })
}

fn third(names: Vec<String>) -> Vec<String> {
    let chosen = names.into_iter().enumerate();
    chosen
        .filter(|(number, _)| number % 3 == THIRD)
        .map(|(_, name)| name)
        .collect()
}

fn skip(command: &mut Command, selection: &Selection, prefix: &str) {
    if !selection.sctp {
        command.arg(format!("--{prefix}skip={NEEDS_SCTP}"));
    }
}

/// What upstream's framework is told.
fn framework(command: &mut Command, lab: &Lab) {
    command
        .arg(format!("--kubeconfig={}", lab.kubeconfig().display()))
        .arg(format!("--kubectl-path={}", lab.bin("kubectl").display()))
        .args(["--provider=skeleton", "--dump-logs-on-failure=false"]);
}

/// `text` as a regular expression that matches it alone.
fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

/// The specs that ran, or would, of a ginkgo report.
fn read_report(text: &str) -> Result<Vec<Spec>> {
    let report: Value = serde_json::from_str(text).context("ginkgo's report is no JSON")?;
    let suites = report.as_array().context("ginkgo's report is no list")?;
    let mut specs = Vec::new();
    for suite in suites {
        for spec in suite["SpecReports"].as_array().into_iter().flatten() {
            let state = spec["State"].as_str().unwrap_or_default();
            let runs = spec["LeafNodeType"] == "It" && !["skipped", "pending"].contains(&state);
            if runs {
                specs.push(read_spec(spec, state));
            } else if state == "failed" || state == "panicked" {
                bail!(
                    "the suite failed before its specs: {}",
                    spec["Failure"]["Message"].as_str().unwrap_or("no message")
                );
            }
        }
    }
    Ok(specs)
}

fn read_spec(spec: &Value, state: &str) -> Spec {
    let texts = spec["ContainerHierarchyTexts"].as_array();
    let mut words: Vec<&str> = texts
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    words.extend(spec["LeafNodeText"].as_str());
    let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
    let log = spec["CapturedGinkgoWriterOutput"]
        .as_str()
        .unwrap_or_default();
    Spec {
        name: words.join(" "),
        passed: state == "passed",
        seconds: spec["RunTime"].as_u64().unwrap_or_default() / 1_000_000_000,
        failure: message.lines().next().unwrap_or_default().to_owned(),
        second_tries: log.matches(SECOND_TRY).count(),
    }
}

/// Prints every spec and the sum; fails for what must not be.
fn summarise(specs: &[Spec], took: Duration, out: &Path) -> Result<()> {
    for spec in specs {
        let verdict = match (spec.passed, spec.second_tries) {
            (false, _) => "FAILED",
            (true, 0) => "passed",
            (true, _) => "PROBED TWICE",
        };
        println!("    {:>4} s  {verdict}  {}", spec.seconds, spec.name);
        if !spec.failure.is_empty() {
            println!("            {}", spec.failure);
        }
    }
    let passed = specs.iter().filter(|spec| spec.passed).count();
    let tries: usize = specs.iter().map(|spec| spec.second_tries).sum();
    println!("    report and log: {}", out.display());
    println!(
        "    {tries} matrices probed twice, {} s in all",
        took.as_secs()
    );
    println!("{passed} passed, {} failed", specs.len() - passed);
    ensure!(!specs.is_empty(), "no spec ran");
    ensure!(passed == specs.len(), "not every spec passed");
    ensure!(tries == 0, "a matrix had to be probed twice");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str, log: &str) -> String {
        serde_json::json!([{"SpecReports": [
            {"LeafNodeType": "BeforeSuite", "State": "passed"},
            {
                "LeafNodeType": "It",
                "State": state,
                "ContainerHierarchyTexts": ["[sig-network] Netpol", "NetworkPolicy"],
                "LeafNodeText": "should work",
                "RunTime": 2_500_000_000_u64,
                "CapturedGinkgoWriterOutput": log,
                "Failure": {"Message": "Had 3 wrong results\nmore"},
            },
            {"LeafNodeType": "It", "State": "skipped", "LeafNodeText": "other"},
        ]}])
        .to_string()
    }

    fn outcome(text: &str) -> Result<()> {
        summarise(&read_report(text)?, Duration::ZERO, Path::new("/e2e"))
    }

    #[test]
    fn a_report_tells_what_ran_and_how_long() {
        let specs = read_report(&report("passed", "")).unwrap();
        assert_eq!(specs.len(), 1, "the skipped one did not run");
        assert_eq!(
            specs[0].name,
            "[sig-network] Netpol NetworkPolicy should work"
        );
        assert_eq!(specs[0].seconds, 2);
    }

    #[test]
    fn a_failure_a_second_try_and_no_spec_at_all_fail_the_run() {
        assert!(outcome(&report("passed", "(FIRST TRY)")).is_ok());
        assert!(outcome(&report("failed", "(FIRST TRY)")).is_err());
        assert!(outcome(&report("passed", "retrying (SECOND TRY)")).is_err());
        assert!(outcome(&report("skipped", "")).is_err());
        assert!(outcome("no report").is_err());
    }

    #[test]
    fn a_suite_that_fails_before_its_specs_is_no_success() {
        let text = r#"[{"SpecReports": [{"LeafNodeType": "BeforeSuite", "State": "failed",
            "Failure": {"Message": "no nodes"}}]}]"#;
        let error = outcome(text).unwrap_err().to_string();
        assert!(error.contains("no nodes"), "{error}");
    }

    #[test]
    fn a_third_is_every_third_name() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        assert_eq!(third(names), ["b", "e"]);
    }

    #[test]
    fn a_quoted_name_has_no_special_characters_left() {
        assert_eq!(quote("[a] b.c(d)"), r"\[a\] b\.c\(d\)");
    }
}
