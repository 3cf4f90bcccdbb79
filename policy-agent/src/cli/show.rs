//! What a running agent tells: status, endpoints, identities, policies.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use super::output::{Format, columns, print};
use super::{DONE, NO, UNDECIDED, client};
use crate::api::{
    Endpoint, Identity, Isolation, Policy, Request, Response, SourceState, Status, Version,
};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `status`.
pub(super) fn status(
    run_dir: &Path,
    wait: bool,
    timeout: Duration,
    strict: bool,
    format: Format,
) -> anyhow::Result<u8> {
    let request = Request::Status { wait };
    let answer = if wait {
        client::ask_until(
            run_dir,
            &request,
            timeout,
            |response| matches!(response, Response::Status(status) if is_well(status)),
        )
    } else {
        client::ask(run_dir, &request, timeout)
    };
    let status = match answer {
        Ok(Response::Status(status)) => status,
        Ok(other) => bail!("the agent answered another question: {other:?}"),
        Err(error) if wait => {
            eprintln!("policy-agent: {error:#}");
            // It may still say what it is waiting for.
            if let Ok(Response::Status(status)) =
                client::ask(run_dir, &Request::Status { wait: false }, PATIENCE)
            {
                print(format, &*status, table)?;
            }
            return Ok(UNDECIDED);
        }
        Err(error) => return Err(error),
    };
    print(format, &*status, table)?;
    let faulty = status
        .diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity != "info");
    Ok(if !is_well(&status) {
        if wait { UNDECIDED } else { NO }
    } else if strict && faulty {
        NO
    } else {
        DONE
    })
}

fn is_well(status: &Status) -> bool {
    status.healthy && status.synced && status.programmed
}

fn table(status: &Status) -> String {
    let yes = |value: bool| if value { "yes" } else { "NO" };
    let mut text = format!(
        "node {}: healthy {}, synced {}, programmed {}, enforcing {}\n\
         agent {} (process {}), programs {} on {}, {} changes, {} repairs\n\n",
        status.node,
        yes(status.healthy),
        yes(status.synced),
        yes(status.programmed),
        yes(status.enforcing),
        status.version,
        status.pid,
        status.programs,
        status.attachment,
        status.changes,
        status.repairs,
    );
    if !status.sources.is_empty() {
        text.push_str(&source_table(&status.sources));
        text.push('\n');
    }
    text.push_str(&endpoint_table(&status.endpoints));
    text.push_str(&version_table(status));
    if !status.awaited.is_empty() {
        text.push_str("\nPods that are held until their objects are known:\n");
        for pod in &status.awaited {
            text.push_str(&format!(
                "  {} (interface {}, for {}): {}\n",
                pod.pod,
                pod.ifindex,
                time(pod.milliseconds),
                pod.why
            ));
        }
    }
    if status.unprotected_total > 0 {
        text.push_str(&format!(
            "\nPods that could be reached before their policies were in force: {}\n",
            status.unprotected_total
        ));
        for pod in &status.unprotected {
            let before = if pod.before_agent {
                ", and before the agent came"
            } else {
                ""
            };
            let how_long = time(pod.milliseconds);
            text.push_str(&format!("  {}: for {how_long}{before}\n", pod.pod));
        }
    }
    if !status.other_interfaces.is_empty() {
        text.push_str("\nInterfaces that are not known to be a pod's:\n");
        for other in &status.other_interfaces {
            let held = if other.held {
                " (held: the node's own traffic only)"
            } else {
                ""
            };
            text.push_str(&format!("  {}: {}{held}\n", other.interface, other.why));
        }
    }
    if !status.counters.is_empty() {
        text.push_str("\nPackets:\n");
        for (name, value) in &status.counters {
            text.push_str(&format!("  {name}: {value}\n"));
        }
    }
    if !status.diagnostics.is_empty() {
        text.push_str("\nDiagnostics:\n");
        for diagnostic in &status.diagnostics {
            let source = diagnostic
                .source
                .as_ref()
                .map(|s| format!(" ({s})"))
                .unwrap_or_default();
            let path = if diagnostic.path.is_empty() {
                String::new()
            } else {
                format!(" {}", diagnostic.path)
            };
            text.push_str(&format!(
                "  {}: {}{source}{path}: {}\n",
                diagnostic.severity, diagnostic.object, diagnostic.message
            ));
        }
    }
    text
}

fn source_table(sources: &[SourceState]) -> String {
    let rows: Vec<Vec<String>> = sources
        .iter()
        .map(|source| {
            vec![
                source.name.clone(),
                if source.synced { "yes" } else { "NO" }.to_owned(),
                source.objects.to_string(),
                source.disconnected_seconds.map_or_else(
                    || "connected".to_owned(),
                    |seconds| format!("DISCONNECTED for {seconds} s"),
                ),
                source.restarts.to_string(),
                source.lists.to_string(),
                source.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let titles = [
        "WATCHED",
        "SYNCED",
        "LISTED",
        "API SERVER",
        "RESTARTS",
        "LISTS",
        "LAST ERROR",
    ];
    columns(&titles, &rows)
}

/// A time as people read it.
fn time(milliseconds: u64) -> String {
    if milliseconds < 10_000 {
        format!("{milliseconds} ms")
    } else {
        format!("{} s", milliseconds / 1_000)
    }
}

/// Versions of the policies that isolate a pod of the node, and of those that are
/// not in force as they were read.
fn version_table(status: &Status) -> String {
    let isolating: BTreeSet<&String> = status
        .endpoints
        .iter()
        .flat_map(|endpoint| [&endpoint.ingress, &endpoint.egress])
        .flatten()
        .flat_map(|isolation| &isolation.policies)
        .collect();
    let shown = |version: &Option<Version>| match version {
        None => "-".to_owned(),
        Some(version) => {
            let generation = version.generation.map(|number| number.to_string());
            // Files of manifests rarely say any.
            generation
                .or_else(|| version.resource_version.clone())
                .unwrap_or_else(|| "unnumbered".to_owned())
        }
    };
    let rows: Vec<Vec<String>> = status
        .policies
        .iter()
        .filter(|policy| {
            isolating.contains(&policy.policy)
                || policy.pending.is_some()
                || policy.refused.is_some()
        })
        .map(|policy| {
            vec![
                policy.policy.clone(),
                shown(&policy.in_force),
                shown(&policy.pending),
                shown(&policy.refused),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let headings = ["POLICY", "GENERATION IN FORCE", "WAITS", "REFUSED"];
    format!("\n{}", columns(&headings, &rows))
}

/// `endpoints`.
pub(super) fn endpoints(run_dir: &Path, format: Format) -> anyhow::Result<u8> {
    let Response::Endpoints(endpoints) = client::ask(run_dir, &Request::Endpoints, PATIENCE)?
    else {
        bail!("the agent answered another question");
    };
    print(format, &endpoints, |endpoints| endpoint_table(endpoints))?;
    Ok(DONE)
}

fn endpoint_table(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "No pod of this node has an address.\n".to_owned();
    }
    let isolation = |isolation: &Option<Isolation>| match isolation {
        None => "open".to_owned(),
        Some(isolation) => isolation.policies.join(","),
    };
    let rows: Vec<Vec<String>> = endpoints
        .iter()
        .map(|endpoint| {
            vec![
                endpoint.pod.clone(),
                endpoint.addresses.join(","),
                endpoint
                    .interface
                    .clone()
                    .unwrap_or_else(|| "none".to_owned()),
                endpoint
                    .generation
                    .map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
                if endpoint.programmed { "yes" } else { "NO" }.to_owned(),
                isolation(&endpoint.ingress),
                isolation(&endpoint.egress),
            ]
        })
        .collect();
    columns(
        &[
            "POD",
            "ADDRESSES",
            "INTERFACE",
            "GENERATION",
            "PROGRAMMED",
            "INGRESS",
            "EGRESS",
        ],
        &rows,
    )
}

/// `identities`.
pub(super) fn identities(run_dir: &Path, format: Format) -> anyhow::Result<u8> {
    let Response::Identities(identities) = client::ask(run_dir, &Request::Identities, PATIENCE)?
    else {
        bail!("the agent answered another question");
    };
    print(format, &identities, |identities: &Vec<Identity>| {
        let rows: Vec<Vec<String>> = identities
            .iter()
            .map(|identity| vec![identity.identity.to_string(), identity.members.join(", ")])
            .collect();
        columns(&["IDENTITY", "MEMBERS"], &rows)
    })?;
    Ok(DONE)
}

/// `policies`.
pub(super) fn policies(run_dir: &Path, format: Format) -> anyhow::Result<u8> {
    let Response::Policies(policies) = client::ask(run_dir, &Request::Policies, PATIENCE)? else {
        bail!("the agent answered another question");
    };
    print(format, &policies, |policies: &Vec<Policy>| {
        let mut text = String::new();
        for policy in policies {
            let pods = if policy.pods.is_empty() {
                "nobody (to be removed)".to_owned()
            } else {
                policy.pods.join(", ")
            };
            text.push_str(&format!("policy {}: {pods}\n", policy.policy));
            for row in &policy.rows {
                let who = match row.identity {
                    0 => "every other peer".to_owned(),
                    identity => format!("identity {identity}"),
                };
                for line in &row.says {
                    text.push_str(&format!("  {who}: {line}\n"));
                }
            }
        }
        if text.is_empty() {
            text.push_str("No pod of this node is isolated.\n");
        }
        text
    })?;
    Ok(DONE)
}
