//! Connections through Services: the reference and `simulate` agree on where each ends and what
//! becomes of it. Needs no kernel.

use policy_core::simulate::{BackendAnswer, Simulator, Verdict};
use policy_core::store::Store;
use policy_tests::generate::{Rng, Shape, random_cluster, service_probes};
use policy_tests::reference::{Cluster, Ending, Outcome, Probe, Reason};

use crate::cluster::Objects;
use crate::compare::{compare_sides, same};
use crate::question::question;

const CLUSTERS: u64 = 60;
const PROBES: usize = 400;

/// What was asked about.
#[derive(Debug, Default)]
struct Counts {
    probes: usize,
    allowed: usize,
    denied: usize,
    depends: usize,
    nowhere: usize,
    plain: usize,
    /// Endings at which a pod reaches itself.
    itself: usize,
    /// Endings that see a node which lent its address.
    lent: usize,
}

#[test]
fn reference_and_simulate_agree_on_every_way_through_a_service() {
    let mut counts = Counts::default();
    let mut problems = Vec::new();
    for seed in 0..CLUSTERS {
        let objects = random_cluster(seed, &Shape::with_services());
        let mut product = Objects::default();
        product.step(&mut Rng::new(seed), &objects, true);
        let cluster = Cluster::from_objects(&objects);
        let mut simulator = Simulator::new(&product.store);
        for probe in service_probes(seed, &objects, PROBES) {
            let compared = compare(
                &cluster,
                &product.store,
                &mut simulator,
                &probe,
                &mut counts,
            );
            if let Err(problem) = compared {
                problems.push(format!("cluster {seed}: {probe}: {problem}"));
            }
        }
    }
    problems.truncate(10);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    println!("{counts:?}");
    let Counts {
        probes,
        allowed,
        denied,
        depends,
        nowhere,
        plain,
        itself,
        lent,
    } = counts;
    assert!(probes >= 20_000, "{counts:?}");
    for count in [allowed, denied, depends, nowhere, plain] {
        assert!(count * 20 >= probes, "{counts:?}");
    }
    assert!(itself >= 100 && lent >= 1_000, "{counts:?}");
}

fn compare(
    cluster: &Cluster,
    store: &Store,
    simulator: &mut Simulator<'_>,
    probe: &Probe,
    counts: &mut Counts,
) -> Result<(), String> {
    let expected = cluster.outcome(probe).map_err(|error| error.to_string())?;
    let answer = simulator
        .ask(&question(probe))
        .map_err(|error| format!("simulate: {error}"))?;
    counts.probes += 1;
    let verdict = match answer.verdict {
        Verdict::Allow => Some(true),
        Verdict::Deny => Some(false),
        Verdict::Depends => None,
    };
    same("verdict", &verdict, &expected.allowed())?;
    let endings = match &expected {
        Outcome::Plain(expected) => {
            counts.plain += 1;
            same("endpoints", &answer.backends.len(), &0)?;
            if expected
                .egress
                .as_ref()
                .is_some_and(|s| s.reason == Reason::Itself)
            {
                return Ok(());
            }
            compare_sides("plain egress", &expected.egress, &answer.egress)?;
            return compare_sides("plain ingress", &expected.ingress, &answer.ingress);
        }
        Outcome::Translated(endings) => endings,
    };
    if endings.is_empty() {
        counts.nowhere += 1;
        let named = answer.reason.contains("no endpoints");
        return same("the reason", &named, &true);
    }
    match verdict {
        Some(true) => counts.allowed += 1,
        Some(false) => counts.denied += 1,
        None => counts.depends += 1,
    }
    same("endpoints", &answer.backends.len(), &endings.len())?;
    let source = question(probe)
        .packet(store)
        .map_err(|e| e.to_string())?
        .source;
    for (ending, backend) in endings.iter().zip(&answer.backends) {
        compare_ending(ending, backend)
            .map_err(|problem| format!("{}:{}: {problem}", ending.address, ending.port))?;
        let itself =
            store.owner(source).is_some() && store.owner(source) == store.owner(ending.address);
        counts.itself += usize::from(itself);
        counts.lent += usize::from(ending.seen_as != source && !itself);
    }
    Ok(())
}

fn compare_ending(ending: &Ending, backend: &BackendAnswer) -> Result<(), String> {
    same("address", &backend.address, &ending.address)?;
    same("port", &backend.port, &ending.port)?;
    let allowed = backend.verdict == Verdict::Allow;
    same("verdict", &allowed, &ending.answer.allowed)?;
    if backend.reason == "a pod reaches itself" {
        return Ok(());
    }
    same("sender", &backend.source, &ending.seen_as)?;
    compare_sides("its egress", &ending.answer.egress, &backend.egress)?;
    compare_sides("its ingress", &ending.answer.ingress, &backend.ingress)
}
