//! Which tests run in a guest: the test programs, what is in them, and that less
//! what `left_out` names.
//!
//! Programs and tests are found, not listed, so nothing new is forgotten.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::left_out::{self, LeftOut, Where};
use crate::{
    build_agent::BUILD_LIMIT,
    job::{Job, announce, output_of},
    workspace::Workspace,
};

/// The packages with tests that need a kernel.
const PACKAGES: [&str; 2] = ["policy-agent", "policy-tests"];

/// A test program.
pub(super) struct Program {
    /// Its name.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// All tests in it.
    tests: Vec<String>,
}

/// What of a program runs in a guest.
pub(super) struct Chosen<'a> {
    /// The program.
    pub(super) program: &'a Program,
    /// The tests in it that run.
    pub(super) tests: Vec<&'a str>,
}

/// What decides about a test, beside its name.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The series of kernels.
    pub(super) series: &'a str,
    /// Only what CI has the time for.
    pub(super) short: bool,
    /// Only tests whose names contain this.
    pub(super) filter: Option<&'a str>,
}

/// Compiles the test programs, without running them, and asks each for its tests.
///
/// # Errors
///
/// When one does not compile or has no tests, and when `left_out` names something
/// that is not there.
pub(super) fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    announce("build: test programs for guests, release");
    let mut programs = Vec::new();
    let mut whole = left_out::PROGRAMS.map(|(name, _)| name).to_vec();
    for package in PACKAGES {
        let mut cargo = workspace.cargo();
        // As `test` builds them, so that neither compiles for the other again.
        cargo
            .args(["test", "--release", "--no-run", "--package", package])
            .args(["--test", "*", "--message-format=json-render-diagnostics"]);
        let mut found = Vec::new();
        let built = Job::new("build of the tests", cargo, BUILD_LIMIT)
            .quiet()
            .run_with_lines(|line| found.extend(test_program(line)))?;
        ensure!(
            built,
            "the tests of {package} do not compile; see standard error"
        );
        for (name, path) in found {
            if let Some(left_out) = whole.iter().position(|left_out| *left_out == name) {
                whole.swap_remove(left_out);
                continue;
            }
            let tests = list(&path)?;
            ensure!(!tests.is_empty(), "{name} has no tests");
            programs.push(Program { name, path, tests });
        }
    }
    if let Some(name) = whole.first() {
        bail!("xtask/src/vm/left_out.rs leaves out the test program {name}, which there is not");
    }
    check(&programs, &left_out::TESTS)?;
    Ok(programs)
}

/// Name and path in a message of cargo's (the book of cargo, External tools, JSON
/// messages) about a test program; messages about all else have none.
fn test_program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    let is_test = target.get("kind")?.get(0)?.as_str()? == "test";
    let path = message.get("executable")?.as_str()?;
    let name = target.get("name")?.as_str()?;
    is_test.then(|| (name.to_owned(), PathBuf::from(path)))
}

/// The names of a program's tests.
fn list(path: &PathBuf) -> Result<Vec<String>> {
    let mut list = Command::new(path);
    list.args(["--list", "--format", "terse"]);
    let listed =
        output_of(list).with_context(|| format!("{} does not list its tests", path.display()))?;
    Ok(names(&listed).map(str::to_owned).collect())
}

/// The names in what `--list --format terse` prints: `name: test`.
fn names(listed: &str) -> impl Iterator<Item = &str> {
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
}

/// That everything that is left out is there.
fn check(programs: &[Program], left_out: &[LeftOut]) -> Result<()> {
    let there: BTreeSet<(&str, &str)> = programs
        .iter()
        .flat_map(|program| {
            let tests = program.tests.iter();
            tests.map(|test| (program.name.as_str(), test.as_str()))
        })
        .collect();
    for entry in left_out {
        for test in entry.tests.named() {
            ensure!(
                there.contains(&(entry.program, test)),
                "xtask/src/vm/left_out.rs names {test} of {}, which there is not",
                entry.program
            );
        }
    }
    Ok(())
}

/// What runs, program by program; programs of which nothing does are not named.
pub(super) fn choose<'a>(
    programs: &'a [Program],
    left_out: &[LeftOut],
    wanted: Wanted<'_>,
) -> Vec<Chosen<'a>> {
    let chosen = programs.iter().map(|program| {
        let tests = program.tests.iter().map(String::as_str);
        let tests = tests
            .filter(|test| wanted.filter.is_none_or(|filter| test.contains(filter)))
            .filter(|test| !is_left_out(left_out, program, test, wanted))
            .collect();
        Chosen { program, tests }
    });
    chosen.filter(|chosen| !chosen.tests.is_empty()).collect()
}

fn is_left_out(left_out: &[LeftOut], program: &Program, test: &str, wanted: Wanted<'_>) -> bool {
    left_out.iter().any(|entry| {
        let here = match entry.wherever {
            Where::Everywhere => true,
            Where::On(series) => series == wanted.series,
            Where::InShort => wanted.short,
        };
        here && entry.program == program.name && entry.tests.holds(test)
    })
}

/// Says what of a run without a filter is left out, and why.
pub(super) fn report(programs: &[Program], wanted: Wanted<'_>) {
    println!("    left out on Linux {}:", wanted.series);
    for (program, reason) in left_out::PROGRAMS {
        println!("      all of {program}: {reason}");
    }
    for entry in &left_out::TESTS {
        let entry_alone = std::slice::from_ref(entry);
        let here = programs
            .iter()
            .filter(|program| program.name == entry.program)
            .flat_map(|program| program.tests.iter().map(move |test| (program, test)))
            .filter(|(program, test)| is_left_out(entry_alone, program, test, wanted));
        for (index, (_, test)) in here.enumerate() {
            if index == 0 {
                println!("      of {}: {}:", entry.program, entry.reason);
            }
            println!("        {test}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::left_out::Tests;

    fn programs() -> Vec<Program> {
        let tests = ["a::fast", "a::slow", "b::new_hook", "b::flood"];
        vec![Program {
            name: "datapath".to_owned(),
            path: PathBuf::new(),
            tests: tests.map(str::to_owned).to_vec(),
        }]
    }

    fn entry(wherever: Where, tests: Tests) -> LeftOut {
        LeftOut {
            program: "datapath",
            wherever,
            reason: "",
            tests,
        }
    }

    fn chosen(wanted: Wanted<'_>) -> Vec<String> {
        let left_out = [
            entry(Where::Everywhere, Tests::These(&["b::flood"])),
            entry(Where::On("6.1"), Tests::These(&["b::new_hook"])),
            entry(Where::InShort, Tests::AllBut(&["a::fast", "b::new_hook"])),
        ];
        let programs = programs();
        check(&programs, &left_out).unwrap();
        let chosen = choose(&programs, &left_out, wanted);
        let tests = chosen.iter().flat_map(|chosen| &chosen.tests);
        tests.map(|test| (*test).to_owned()).collect()
    }

    #[test]
    fn everything_runs_but_what_is_left_out_there() {
        let full = Wanted {
            series: "6.1",
            short: false,
            filter: None,
        };
        assert_eq!(chosen(full), ["a::fast", "a::slow"]);
        let newer = Wanted {
            series: "6.12",
            ..full
        };
        assert_eq!(chosen(newer), ["a::fast", "a::slow", "b::new_hook"]);
        let short = Wanted {
            short: true,
            ..newer
        };
        assert_eq!(chosen(short), ["a::fast", "b::new_hook"]);
        let filtered = Wanted {
            filter: Some("b::"),
            ..newer
        };
        assert_eq!(chosen(filtered), ["b::new_hook"]);
    }

    #[test]
    fn what_is_left_out_must_be_there() {
        let gone = [entry(Where::Everywhere, Tests::These(&["a::renamed"]))];
        let error = check(&programs(), &gone).unwrap_err().to_string();
        assert!(error.contains("a::renamed of datapath"), "{error}");
    }

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let message = |kind: &str, executable: &str| {
            let target = format!(r#"{{"kind":["{kind}"],"name":"x"}}"#);
            format!(
                r#"{{"reason":"compiler-artifact","target":{target},"executable":{executable}}}"#
            )
        };
        let found = test_program(&message("test", r#""/t/deps/x-1""#));
        assert_eq!(found, Some(("x".to_owned(), PathBuf::from("/t/deps/x-1"))));
        assert_eq!(test_program(&message("bin", r#""/t/x""#)), None);
        assert_eq!(test_program(&message("lib", "null")), None);
        assert_eq!(test_program(r#"{"reason":"build-finished"}"#), None);
    }

    #[test]
    fn tests_are_told_from_what_else_is_listed() {
        let listed = "a::one: test\nb: benchmark\na::two: test\n\n2 tests, 1 benchmark\n";
        assert_eq!(names(listed).collect::<Vec<_>>(), ["a::one", "a::two"]);
    }
}
