//! Which tests run in a guest: the test programs, what is in them, and that less
//! what `left_out` names.
//!
//! Programs and tests are found, not listed, so nothing new is forgotten.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::left_out::{self, LeftOut, Where};
use crate::{job::output_of, optimised, workspace::Workspace};

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
    /// Only tests whose names, behind `program::`, contain this.
    pub(super) filter: Option<&'a str>,
}

impl Wanted<'_> {
    /// Whether the filter lets this test through.
    fn names(&self, program: &Program, test: &str) -> bool {
        let full = format!("{}::{test}", program.name);
        self.filter.is_none_or(|filter| full.contains(filter))
    }
}

/// Compiles the test programs, without running them, and asks each for its tests.
///
/// # Errors
///
/// When one does not compile or has no tests, and when `left_out` names something
/// that is not there.
pub(super) fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    let mut whole = left_out::PROGRAMS.map(|(name, _)| name).to_vec();
    for (name, path) in optimised::build_tests(workspace)? {
        if let Some(left_out) = whole.iter().position(|left_out| *left_out == name) {
            whole.swap_remove(left_out);
            continue;
        }
        let tests = list(&path)?;
        ensure!(!tests.is_empty(), "{name} has no tests");
        programs.push(Program { name, path, tests });
    }
    if let Some(name) = whole.first() {
        bail!("xtask/src/vm/left_out.rs leaves out the test program {name}, which there is not");
    }
    check(&programs, &left_out::TESTS)?;
    Ok(programs)
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
            .filter(|test| wanted.names(program, test))
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
        let module = Wanted {
            filter: Some("datapath::a::"),
            ..newer
        };
        assert_eq!(chosen(module), ["a::fast", "a::slow"]);
    }

    #[test]
    fn what_is_left_out_must_be_there() {
        let gone = [entry(Where::Everywhere, Tests::These(&["a::renamed"]))];
        let error = check(&programs(), &gone).unwrap_err().to_string();
        assert!(error.contains("a::renamed of datapath"), "{error}");
    }

    #[test]
    fn tests_are_told_from_what_else_is_listed() {
        let listed = "a::one: test\nb: benchmark\na::two: test\n\n2 tests, 1 benchmark\n";
        assert_eq!(names(listed).collect::<Vec<_>>(), ["a::one", "a::two"]);
    }
}
